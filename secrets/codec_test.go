package secrets_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const sealedEncoding = "binary/reauth-aead"

func encodingOf(p *commonpb.Payload) string { return string(p.GetMetadata()["encoding"]) }

func TestCodecEncryptsAndDecrypts(t *testing.T) {
	codec := load(t, generate(t)).Codec()
	plain := []*commonpb.Payload{
		{Metadata: map[string][]byte{"encoding": []byte("json/plain"), "note": []byte("SENTINEL")}, Data: []byte(`{"code":"SENTINEL"}`)},
		{Metadata: map[string][]byte{"encoding": []byte("binary/null")}},
		{},
	}
	before := make([]*commonpb.Payload, len(plain))
	for i, p := range plain {
		before[i] = proto.Clone(p).(*commonpb.Payload)
	}
	sealed, err := codec.Encode(plain)
	require.NoError(t, err)
	require.Len(t, sealed, 3)
	for i, p := range sealed {
		require.Equal(t, sealedEncoding, encodingOf(p))
		require.Len(t, p.Metadata, 1)
		require.NotContains(t, p.String(), "SENTINEL")
		require.True(t, proto.Equal(before[i], plain[i]), "Encode changed what it was given")
	}
	opened, err := codec.Decode(sealed)
	require.NoError(t, err)
	for i, p := range opened {
		require.True(t, proto.Equal(before[i], p))
	}
}

func TestCodecPassesThroughWhatItDidNotEncrypt(t *testing.T) {
	codec := load(t, generate(t)).Codec()
	foreign := []*commonpb.Payload{
		{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`{"connection_id":"con-1"}`)},
		{Metadata: map[string][]byte{"encoding": []byte("binary/encrypted")}, Data: []byte("somebody else's")},
		{},
	}
	decoded, err := codec.Decode(foreign)
	require.NoError(t, err)
	for i := range foreign {
		require.Same(t, foreign[i], decoded[i])
	}
}

func TestCodecSaysWhyAPayloadDoesNotOpen(t *testing.T) {
	keys := load(t, generate(t))
	sealed, err := keys.Codec().Encode([]*commonpb.Payload{{Data: []byte("plain")}})
	require.NoError(t, err)

	_, err = load(t, generate(t)).Codec().Decode(sealed)
	require.ErrorIs(t, err, secrets.ErrUnknownKey)

	sealed[0].Data[len(sealed[0].Data)-1] ^= 1
	_, err = keys.Codec().Decode(sealed)
	require.ErrorIs(t, err, secrets.ErrSealed)

	_, err = keys.Codec().Decode([]*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte(sealedEncoding)}}})
	require.ErrorIs(t, err, secrets.ErrSealed)

	// What was sealed for another use is no payload.
	value, err := keys.Seal([]byte("plain"))
	require.NoError(t, err)
	_, err = keys.Codec().Decode([]*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte(sealedEncoding)}, Data: value}})
	require.ErrorIs(t, err, secrets.ErrSealed)
}

func TestEverythingIsEncryptedButWhatIsPublic(t *testing.T) {
	data := load(t, generate(t)).DataConverter()
	sentence := "SENTINEL, for the web UI"
	at := noon
	status := reauth.Status{CaseID: "SENTINEL", SessionExpiresAt: &at}
	result := reauth.Result{CaseID: "SENTINEL", Outcome: reauth.OutcomeRecovered}
	for _, test := range []struct {
		value  any
		public bool
	}{
		{status, true},
		{&status, true},
		{result, true},
		{&result, true},
		{sentence, true},
		{&sentence, true},
		{reauth.Input{ConnectionID: "SENTINEL"}, false},
		{reauth.CodeReceived{Code: "SENTINEL"}, false},
		{&reauth.TokenMinted{ConnectionID: "SENTINEL"}, false},
		{[]string{"SENTINEL"}, false},
		{[]byte("SENTINEL"), false},
		{map[string]string{"SENTINEL": "SENTINEL"}, false},
		{secrets.Secret("SENTINEL"), false},
		{durationpb.New(time.Hour), false},
		{42, false},
		{nil, false},
		{struct{}{}, false},
		{(*reauth.Input)(nil), false},
	} {
		one, err := data.ToPayload(test.value)
		require.NoError(t, err, "%T", test.value)
		several, err := data.ToPayloads("before", test.value, 1)
		require.NoError(t, err)
		require.Len(t, several.Payloads, 3)
		for _, payload := range []*commonpb.Payload{one, several.Payloads[1]} {
			if test.public {
				plain, err := json.Marshal(test.value)
				require.NoError(t, err)
				require.Equal(t, "json/plain", encodingOf(payload), "%T", test.value)
				require.JSONEq(t, string(plain), string(payload.Data))
			} else {
				require.Equal(t, sealedEncoding, encodingOf(payload), "%T", test.value)
				require.NotContains(t, string(payload.Data), "SENTINEL")
			}
		}
	}
}

// TestValuesBehaveAsInTheDefaultConverter compares every kind of value, there
// and back, with what the SDK's own converter does.
func TestValuesBehaveAsInTheDefaultConverter(t *testing.T) {
	ours, theirs := load(t, generate(t)).DataConverter(), converter.GetDefaultDataConverter()
	raw := func(v any) converter.RawValue {
		payload, err := theirs.ToPayload(v)
		require.NoError(t, err)
		return converter.NewRawValue(payload)
	}
	for _, test := range []struct {
		name  string
		value any
		into  func() any
	}{
		{"struct", reauth.Input{ConnectionID: "con-1", Reminders: []string{"2d"}}, func() any { return new(reauth.Input) }},
		{"pointer to struct", &reauth.Input{ConnectionID: "con-1"}, func() any { return new(reauth.Input) }},
		{"into a pointer to a pointer", &reauth.Input{ConnectionID: "con-1"}, func() any { return new(*reauth.Input) }},
		{"public struct", reauth.Status{CaseID: "c"}, func() any { return new(reauth.Status) }},
		{"nil", nil, func() any { return new(reauth.Input) }},
		{"nil into a pointer", nil, func() any { return new(*reauth.Input) }},
		{"nil pointer", (*reauth.Input)(nil), func() any { return new(*reauth.Input) }},
		{"nil public pointer", (*reauth.Status)(nil), func() any { return new(*reauth.Status) }},
		{"string", "text", func() any { return new(string) }},
		{"empty string", "", func() any { return new(string) }},
		{"number", int64(math.MaxInt64), func() any { return new(int64) }},
		{"bool", true, func() any { return new(bool) }},
		{"bytes", []byte{0, 1, 2}, func() any { return new([]byte) }},
		{"nil bytes", []byte(nil), func() any { return new([]byte) }},
		{"time", noon, func() any { return new(time.Time) }},
		{"into any", map[string]any{"a": []any{1.5, nil, "b"}}, func() any { return new(any) }},
		{"proto message", durationpb.New(time.Hour), func() any { return new(durationpb.Duration) }},
		{"proto message into a pointer", durationpb.New(time.Hour), func() any { return new(*durationpb.Duration) }},
		{"raw value", raw(reauth.Input{ConnectionID: "con-1"}), func() any { return new(reauth.Input) }},
		{"raw value of nil", raw(nil), func() any { return new(*reauth.Input) }},
		{"into a raw value", reauth.Input{ConnectionID: "con-1"}, func() any { return new(converter.RawValue) }},
		{"raw value into a raw value", raw([]byte("x")), func() any { return new(converter.RawValue) }},
		{"public into a raw value", "text", func() any { return new(converter.RawValue) }},
		{"of the wrong type", "text", func() any { return new(int) }},
		{"bytes into a struct", []byte("x"), func() any { return new(reauth.Input) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			want, got, gotMany := test.into(), test.into(), test.into()
			payload, err := theirs.ToPayload(test.value)
			require.NoError(t, err)
			wantErr := theirs.FromPayload(payload, want)

			payload, err = ours.ToPayload(test.value)
			require.NoError(t, err)
			gotErr := ours.FromPayload(payload, got)
			payloads, err := ours.ToPayloads(test.value)
			require.NoError(t, err)
			gotManyErr := ours.FromPayloads(payloads, gotMany)

			if wantErr != nil {
				for _, sentinel := range []error{converter.ErrUnableToDecode, converter.ErrTypeIsNotByteSlice} {
					require.Equal(t, errors.Is(wantErr, sentinel), errors.Is(gotErr, sentinel), "%v", gotErr)
				}
				require.Error(t, gotErr)
				require.Error(t, gotManyErr)
				return
			}
			require.NoError(t, gotErr)
			require.NoError(t, gotManyErr)
			for _, got := range []any{got, gotMany} {
				if wantRaw, ok := want.(*converter.RawValue); ok {
					require.True(t, proto.Equal(wantRaw.Payload(), got.(*converter.RawValue).Payload()))
				} else if wantProto, ok := want.(proto.Message); ok {
					require.True(t, proto.Equal(wantProto, got.(proto.Message)))
				} else {
					require.Equal(t, want, got)
				}
			}
			require.Equal(t, theirs.ToString(mustPayload(t, theirs, test.value)), ours.ToString(payload))
			require.Equal(t, []string{ours.ToString(payload)}, ours.ToStrings(payloads))
		})
	}
}

func mustPayload(t *testing.T, data converter.DataConverter, value any) *commonpb.Payload {
	t.Helper()
	payload, err := data.ToPayload(value)
	require.NoError(t, err)
	return payload
}

func TestSeveralValuesAndNone(t *testing.T) {
	data := load(t, generate(t)).DataConverter()
	payloads, err := data.ToPayloads()
	require.NoError(t, err)
	require.Nil(t, payloads)
	require.NoError(t, data.FromPayloads(nil, new(string)))
	require.NoError(t, data.FromPayload(nil, new(string)))
	require.Empty(t, data.ToString(nil))
	require.Empty(t, data.ToStrings(nil))

	payloads, err = data.ToPayloads("a", 2, nil)
	require.NoError(t, err)
	var a string
	var b int
	require.NoError(t, data.FromPayloads(payloads, &a, &b), "fewer values than payloads")
	require.Equal(t, "a", a)
	require.Equal(t, 2, b)
	c := "untouched"
	require.NoError(t, data.FromPayloads(&commonpb.Payloads{Payloads: payloads.Payloads[:2]}, &a, &b, &c), "more values than payloads")
	require.Equal(t, "untouched", c)
}

func TestPlainPayloadsOfOtherClientsAreAccepted(t *testing.T) {
	plain, err := converter.GetDefaultDataConverter().ToPayloads(reauth.Input{ConnectionID: "con-1"})
	require.NoError(t, err)
	var got reauth.Input
	require.NoError(t, load(t, generate(t)).DataConverter().FromPayloads(plain, &got))
	require.Equal(t, "con-1", got.ConnectionID)
}

func TestCurrentDetailsStayReadable(t *testing.T) {
	metadata, err := converter.GetDefaultDataConverter().ToPayload(&sdkpb.WorkflowMetadata{CurrentDetails: "waiting for the customer"})
	require.NoError(t, err)
	payload, err := load(t, generate(t)).DataConverter().ToPayload(converter.NewRawValue(metadata))
	require.NoError(t, err)
	require.Equal(t, "json/protobuf", encodingOf(payload))
	require.Contains(t, string(payload.Data), "waiting for the customer")
}

// TestErrorsDoNotShowWhatWasDecoded: the SDK logs what it cannot decode.
func TestErrorsDoNotShowWhatWasDecoded(t *testing.T) {
	data := load(t, generate(t)).DataConverter()
	for name, test := range map[string]struct {
		json string
		into any
		want string
	}{
		"number for a code":   {`{"code":8123456789}`, new(reauth.CodeReceived), "code is a JSON number and does not fit a string"},
		"object for a code":   {`{"code":{"8123456789":1}}`, new(reauth.CodeReceived), "code is a JSON object"},
		"not JSON":            {`8123456789x`, new(reauth.CodeReceived), "it is not the form of a *reauth.CodeReceived"},
		"no time":             {`{"until":"8123456789"}`, new(reauth.Snooze), "it is not the form of a *reauth.Snooze"},
		"wrong at the top":    {`8123456789`, new(reauth.CodeReceived), "it is not the form of a *reauth.CodeReceived"},
		"into no pointer":     {`8123456789`, reauth.CodeReceived{}, "it is not the form of a reauth.CodeReceived"},
		"into nothing":        {`8123456789`, nil, "it is not the form of a"},
		"string for a number": {`{"minutes_to_expire":"8123456789"}`, new(reauth.Input), "minutes_to_expire is a JSON string"},
	} {
		t.Run(name, func(t *testing.T) {
			payload := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(test.json)}
			for _, err := range []error{
				data.FromPayload(payload, test.into),
				data.FromPayloads(&commonpb.Payloads{Payloads: []*commonpb.Payload{payload}}, test.into),
			} {
				require.ErrorIs(t, err, converter.ErrUnableToDecode)
				require.ErrorContains(t, err, test.want)
				require.NotContains(t, err.Error(), "8123")
			}
		})
	}
	_, err := data.ToPayload(map[string]any{"8123456789": make(chan int)})
	require.ErrorIs(t, err, converter.ErrUnableToEncode)
	require.NotContains(t, err.Error(), "8123")
	_, err = data.ToPayloads(1, math.NaN())
	require.ErrorContains(t, err, "values[1]")
}

func inWorkflow(d converter.DataConverter) converter.DataConverter {
	return d.(converter.ContextAware).WithWorkflowContext(nil)
}

func TestAMissingKeyPanicsInAWorkflowAndNowhereElse(t *testing.T) {
	payload, err := load(t, generate(t)).DataConverter().ToPayload(reauth.CodeReceived{Code: "SENTINEL"})
	require.NoError(t, err)
	data := load(t, generate(t)).DataConverter()
	var got reauth.CodeReceived

	require.ErrorIs(t, data.FromPayload(payload, &got), secrets.ErrUnknownKey)
	require.ErrorIs(t, data.(converter.ContextAware).WithContext(t.Context()).FromPayload(payload, &got), secrets.ErrUnknownKey)
	require.PanicsWithError(t, panicText(t, data, payload), func() { _ = inWorkflow(data).FromPayload(payload, &got) })
	require.Panics(t, func() {
		_ = inWorkflow(data).FromPayloads(&commonpb.Payloads{Payloads: []*commonpb.Payload{payload}}, &got)
	})
	require.ErrorIs(t, inWorkflow(data).(converter.ContextAware).WithContext(t.Context()).FromPayload(payload, &got), secrets.ErrUnknownKey)

	// Nobody reads this one, so nobody waits for its key.
	require.NoError(t, inWorkflow(data).FromPayloads(&commonpb.Payloads{Payloads: []*commonpb.Payload{payload}}))
	require.Contains(t, inWorkflow(data).ToString(payload), "not in the keyset")
}

func panicText(t *testing.T, data converter.DataConverter, payload *commonpb.Payload) string {
	t.Helper()
	err := data.FromPayload(payload, new(any))
	return fmt.Sprintf("%v; give this worker the keyset that has it, and the workflow goes on", err)
}

func TestAForgedPayloadIsAnErrorInAWorkflowToo(t *testing.T) {
	data := load(t, generate(t)).DataConverter()
	payload, err := data.ToPayload(reauth.CodeReceived{Code: "code"})
	require.NoError(t, err)
	payload.Data[len(payload.Data)-1] ^= 1
	require.ErrorIs(t, inWorkflow(data).FromPayload(payload, new(reauth.CodeReceived)), secrets.ErrSealed)
}

func TestFailuresAreEncrypted(t *testing.T) {
	keys := load(t, generate(t))
	failures := keys.FailureConverter()
	type detail struct{ Text string }
	cause := errors.New("cause SENTINEL")
	err := temporal.NewApplicationErrorWithOptions("message SENTINEL", "invalid_grant", temporal.ApplicationErrorOptions{
		NonRetryable: true, Cause: fmt.Errorf("wrapped SENTINEL: %w", cause),
		Details: []any{"a string SENTINEL", detail{"SENTINEL"}, reauth.Status{CaseID: "SENTINEL"}},
	})
	failure := failures.ErrorToFailure(err)
	require.NotContains(t, failure.String(), "SENTINEL")
	require.Equal(t, "Encoded failure", failure.Message)
	require.Equal(t, "invalid_grant", failure.GetApplicationFailureInfo().GetType(), "types stay readable")
	require.True(t, failure.GetApplicationFailureInfo().GetNonRetryable())
	require.Equal(t, sealedEncoding, encodingOf(failure.EncodedAttributes))
	for _, payload := range failure.GetApplicationFailureInfo().GetDetails().GetPayloads() {
		require.Equal(t, sealedEncoding, encodingOf(payload), "even public values are encrypted in a failure")
	}

	var back *temporal.ApplicationError
	require.ErrorAs(t, failures.FailureToError(proto.Clone(failure).(*failurepb.Failure)), &back)
	require.Contains(t, back.Error(), "message SENTINEL")
	require.Equal(t, "invalid_grant", back.Type())
	require.ErrorContains(t, back.Unwrap(), "cause SENTINEL")
	var text string
	var d detail
	require.NoError(t, back.Details(&text, &d))
	require.Equal(t, "a string SENTINEL", text)
	require.Equal(t, detail{"SENTINEL"}, d)

	require.Nil(t, failures.ErrorToFailure(nil))
	require.NoError(t, failures.FailureToError(nil))
}

func TestWhatWasWrongWithAStartStaysReadable(t *testing.T) {
	keys := load(t, generate(t))
	failures := keys.FailureConverter()
	// What a client without a key gets, as Temporal's own clients read it.
	for _, kind := range []string{reauth.ErrTypeWorkflowIDMismatch, reauth.ErrTypeInvalidInput} {
		failure := failures.ErrorToFailure(temporal.NewNonRetryableApplicationError("in our words", kind, nil))
		require.Equal(t, "in our words", failure.GetMessage())
		require.Nil(t, failure.GetEncodedAttributes())
		var back *temporal.ApplicationError
		require.ErrorAs(t, failures.FailureToError(failure), &back)
		require.Equal(t, kind, back.Type())
		require.True(t, back.NonRetryable())
	}
	// An input that does not even decode is answered in the same way, without it.
	plain, err := converter.GetDefaultDataConverter().ToPayload(map[string]any{"connection_id": 4711})
	require.NoError(t, err)
	misfit := fmt.Errorf("SENTINEL: %w", keys.DataConverter().FromPayload(plain, new(reauth.Input)))
	failure := failures.ErrorToFailure(misfit)
	require.Equal(t, "the workflow's input cannot be read: connection_id is a JSON number and does not fit a string", failure.GetMessage())
	require.Equal(t, reauth.ErrTypeInvalidInput, failure.GetApplicationFailureInfo().GetType())
	activity := failures.(converter.FailureConverterWithSerializationContext).WithSerializationContext(converter.ActivitySerializationContext{WorkflowID: "reauth-con-1"})
	require.Equal(t, "Encoded failure", activity.ErrorToFailure(misfit).GetMessage(), "an activity's is not the caller's business")

	// In other words than ours there might be anything.
	for name, err := range map[string]error{
		"a cause":      temporal.NewNonRetryableApplicationError("ours", reauth.ErrTypeInvalidInput, errors.New("SENTINEL")),
		"details":      temporal.NewNonRetryableApplicationError("ours", reauth.ErrTypeInvalidInput, nil, "SENTINEL"),
		"another type": temporal.NewApplicationError("SENTINEL", "invalid_grant"),
		"a wrapping":   fmt.Errorf("SENTINEL: %w", temporal.NewApplicationError("ours", reauth.ErrTypeInvalidInput)),
		"no type":      errors.New("SENTINEL"),
	} {
		require.NotContains(t, failures.ErrorToFailure(err).String(), "SENTINEL", name)
	}
}

func TestPlainFailuresOfOtherWorkersAreAccepted(t *testing.T) {
	failure := temporal.GetDefaultFailureConverter().ErrorToFailure(temporal.NewApplicationError("plain", "kind"))
	err := load(t, generate(t)).FailureConverter().FailureToError(failure)
	require.ErrorContains(t, err, "plain")
}

func TestAMissingKeyForAnActivitysFailurePanicsInTheWorkflowOnly(t *testing.T) {
	failure := load(t, generate(t)).FailureConverter().ErrorToFailure(errors.New("SENTINEL"))
	decode := func(c converter.FailureConverter) error {
		return c.FailureToError(proto.Clone(failure).(*failurepb.Failure))
	}
	failures := load(t, generate(t)).FailureConverter()
	in := func(ctx converter.SerializationContext) converter.FailureConverter {
		return failures.(converter.FailureConverterWithSerializationContext).WithSerializationContext(ctx)
	}

	require.ErrorContains(t, decode(failures), "Encoded failure")
	require.ErrorContains(t, decode(in(converter.WorkflowSerializationContext{WorkflowID: "reauth-con-1"})), "Encoded failure")
	require.ErrorContains(t, decode(in(converter.ActivitySerializationContext{})), "Encoded failure", "an activity without a workflow")
	activity := in(converter.ActivitySerializationContext{WorkflowID: "reauth-con-1"})
	require.Panics(t, func() { _ = decode(activity) })
	back := activity.(converter.FailureConverterWithSerializationContext).WithSerializationContext(converter.WorkflowSerializationContext{})
	require.ErrorContains(t, decode(back), "Encoded failure")
}

func TestConfigureSetsBothConverters(t *testing.T) {
	keys := load(t, generate(t))
	var options client.Options
	keys.Configure(&options)
	payload, err := options.DataConverter.ToPayload(reauth.CodeReceived{Code: "code"})
	require.NoError(t, err)
	require.Equal(t, sealedEncoding, encodingOf(payload))
	require.Equal(t, "Encoded failure", options.FailureConverter.ErrorToFailure(errors.New("x")).Message)
}
