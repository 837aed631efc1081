package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/proto"

	"github.com/finch-reauth/reauth/reauth"
)

// encodingSealed marks the payloads that we encrypted.
const encodingSealed = "binary/reauth-aead"

// Configure makes a client and its workers encrypt what they write to Temporal.
func (k *Keys) Configure(o *client.Options) {
	o.DataConverter = k.DataConverter()
	o.FailureConverter = k.FailureConverter()
}

// Codec encrypts payloads, and decrypts those that it encrypted; others pass
// through. What cannot be decrypted is an error that wraps ErrUnknownKey or
// ErrSealed. In a worker use DataConverter, which tells the two apart.
func (k *Keys) Codec() converter.PayloadCodec { return codec{k} }

type codec struct{ keys *Keys }

func (c codec) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	return each(payloads, c.keys.encrypt)
}

func (c codec) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	return each(payloads, c.keys.decrypt)
}

func each(payloads []*commonpb.Payload, f func(*commonpb.Payload) (*commonpb.Payload, error)) ([]*commonpb.Payload, error) {
	results := make([]*commonpb.Payload, len(payloads))
	for i, payload := range payloads {
		result, err := f(payload)
		if err != nil {
			return nil, err
		}
		results[i] = result
	}
	return results, nil
}

func (k *Keys) encrypt(payload *commonpb.Payload) (*commonpb.Payload, error) {
	plain, err := proto.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encrypt a payload: %w", err)
	}
	sealed, err := k.seal("payload", plain, nil)
	if err != nil {
		return nil, fmt.Errorf("encrypt a payload: %w", err)
	}
	return &commonpb.Payload{
		Metadata: map[string][]byte{converter.MetadataEncoding: []byte(encodingSealed)},
		Data:     sealed,
	}, nil
}

func (k *Keys) decrypt(payload *commonpb.Payload) (*commonpb.Payload, error) {
	if string(payload.GetMetadata()[converter.MetadataEncoding]) != encodingSealed {
		return payload, nil
	}
	plain, err := k.open("payload", payload.GetData(), nil)
	if err != nil {
		return nil, fmt.Errorf("decrypt a payload: %w", err)
	}
	var opened commonpb.Payload
	if err := proto.Unmarshal(plain, &opened); err != nil {
		return nil, fmt.Errorf("decrypt a payload: %w", ErrSealed)
	}
	return &opened, nil
}

// DataConverter is the SDK's default converter with everything encrypted except
// the values for which reauth.EncodePublic is true, which stay plain JSON.
//
// When a key is missing, a workflow must wait for it and not fail: an error
// from a converter fails the workflow when its input is read, drops a signal,
// and ends an activity's wait; a panic fails the workflow task only, which the
// server then retries. So where the SDK says that a workflow is reading, a
// missing key panics. Everywhere else, and for a value that no key will open,
// it is an error: a forged signal is dropped, and blocks nobody's case.
func (k *Keys) DataConverter() converter.DataConverter {
	return dataConverter{keys: k, plain: converter.GetDefaultDataConverter(), public: isPublic}
}

type dataConverter struct {
	keys     *Keys
	plain    converter.DataConverter
	public   func(any) bool // which values are not encrypted
	blocking bool           // whether a missing key panics
}

var _ converter.ContextAware = dataConverter{}

// WithWorkflowContext is called by the SDK for what a workflow reads and writes.
func (c dataConverter) WithWorkflowContext(converter.WorkflowContext) converter.DataConverter {
	c.blocking = true
	return c
}

// WithContext is called by the SDK for what clients and activities read and write.
func (c dataConverter) WithContext(context.Context) converter.DataConverter {
	c.blocking = false
	return c
}

func (c dataConverter) ToPayload(value any) (*commonpb.Payload, error) {
	payload, err := c.plain.ToPayload(value)
	if err != nil {
		// The default converter's errors may show the value.
		return nil, fmt.Errorf("%w: a %T", converter.ErrUnableToEncode, value)
	}
	if payload == nil || c.public(value) {
		return payload, nil
	}
	return c.keys.encrypt(payload)
}

func (c dataConverter) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	if len(values) == 0 {
		return nil, nil
	}
	payloads := &commonpb.Payloads{Payloads: make([]*commonpb.Payload, len(values))}
	for i, value := range values {
		payload, err := c.ToPayload(value)
		if err != nil {
			return nil, fmt.Errorf("values[%d]: %w", i, err)
		}
		payloads.Payloads[i] = payload
	}
	return payloads, nil
}

func (c dataConverter) FromPayload(payload *commonpb.Payload, valuePtr any) error {
	if payload == nil {
		return nil
	}
	opened, err := c.keys.decrypt(payload)
	if err != nil {
		if c.blocking && errors.Is(err, ErrUnknownKey) {
			panic(fmt.Errorf("%w; give this worker the keyset that has it, and the workflow goes on", err))
		}
		return err
	}
	if err := c.plain.FromPayload(opened, valuePtr); err != nil {
		return withoutValue(err, opened, valuePtr)
	}
	return nil
}

// FromPayloads reads no more payloads than there are values, so that one that
// nobody asked for hinders nobody.
func (c dataConverter) FromPayloads(payloads *commonpb.Payloads, valuePtrs ...any) error {
	for i, payload := range payloads.GetPayloads() {
		if i >= len(valuePtrs) {
			break
		}
		if err := c.FromPayload(payload, valuePtrs[i]); err != nil {
			return fmt.Errorf("payload item %d: %w", i, err)
		}
	}
	return nil
}

func (c dataConverter) ToString(payload *commonpb.Payload) string {
	if payload == nil {
		return ""
	}
	opened, err := c.keys.decrypt(payload)
	if err != nil {
		return err.Error()
	}
	return c.plain.ToString(opened)
}

func (c dataConverter) ToStrings(payloads *commonpb.Payloads) []string {
	var texts []string
	for _, payload := range payloads.GetPayloads() {
		texts = append(texts, c.ToString(payload))
	}
	return texts
}

// isPublic adds to reauth.EncodePublic what the web UI reads of its own accord:
// the current details, which the SDK answers as an encoded message.
func isPublic(value any) bool {
	if raw, ok := value.(converter.RawValue); ok {
		messageType := raw.Payload().GetMetadata()[converter.MetadataMessageType]
		return string(messageType) == "temporal.api.sdk.v1.WorkflowMetadata"
	}
	return reauth.EncodePublic(value)
}

// withoutValue replaces an error that shows a part of what could not be decoded
// (a code that was sent as a number, say) by one that names the field only. The
// SDK logs it.
func withoutValue(err error, payload *commonpb.Payload, valuePtr any) error {
	if !errors.Is(err, converter.ErrUnableToDecode) {
		return err
	}
	target := reflect.TypeOf(valuePtr)
	var wrong *json.UnmarshalTypeError
	if string(payload.GetMetadata()[converter.MetadataEncoding]) == converter.MetadataEncodingJSON &&
		target != nil && target.Kind() == reflect.Pointer &&
		errors.As(json.Unmarshal(payload.GetData(), reflect.New(target.Elem()).Interface()), &wrong) && wrong.Field != "" {
		kind, _, _ := strings.Cut(wrong.Value, " ")
		return misfit(fmt.Sprintf("%s is a JSON %s and does not fit a %s", wrong.Field, kind, wrong.Type))
	}
	return misfit(fmt.Sprintf("it is not the form of a %v", target))
}

// misfit is an error of withoutValue, in our own words alone.
type misfit string

func (m misfit) Error() string { return converter.ErrUnableToDecode.Error() + ": " + string(m) }
func (m misfit) Unwrap() error { return converter.ErrUnableToDecode }

// FailureConverter encrypts the messages, stack traces and details of errors.
// The types of errors stay readable, and so does what a workflow says of a start
// that was wrong: whoever started it may have no key.
func (k *Keys) FailureConverter() converter.FailureConverter {
	return newFailureConverter(dataConverter{
		keys: k, plain: converter.GetDefaultDataConverter(), public: func(any) bool { return false },
	})
}

type failureConverter struct {
	*temporal.DefaultFailureConverter
	data dataConverter
}

func newFailureConverter(data dataConverter) failureConverter {
	return failureConverter{
		DefaultFailureConverter: temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{
			DataConverter: data, EncodeCommonAttributes: true,
		}),
		data: data,
	}
}

var _ converter.FailureConverterWithSerializationContext = failureConverter{}

// ErrorToFailure encrypts an error, unless it is for whoever started a workflow.
func (c failureConverter) ErrorToFailure(err error) *failurepb.Failure {
	var m misfit
	if !c.data.blocking && errors.As(err, &m) { // of a workflow, it is its input
		err = temporal.NewNonRetryableApplicationError("the workflow's input cannot be read: "+string(m), reauth.ErrTypeInvalidInput, nil)
	}
	if forCaller(err) {
		return temporal.GetDefaultFailureConverter().ErrorToFailure(err)
	}
	return c.DefaultFailureConverter.ErrorToFailure(err)
}

// forCaller reports whether an error says, and in our own words alone, what was
// wrong with the start of a workflow. Those words never repeat a secret.
// Temporal's clients cannot even show the type of an error that they cannot
// decrypt.
func forCaller(err error) bool {
	e, ok := err.(*temporal.ApplicationError)
	return ok && (e.Type() == reauth.ErrTypeWorkflowIDMismatch || e.Type() == reauth.ErrTypeInvalidInput) &&
		e.Unwrap() == nil && !e.HasDetails()
}

// WithSerializationContext is called by the SDK with what a failure belongs to.
// The failure of a workflow's activity is only ever read by that workflow, so
// there a missing key panics, as it does in DataConverter: otherwise the SDK
// would hand over the error without its message.
func (c failureConverter) WithSerializationContext(ctx converter.SerializationContext) converter.FailureConverter {
	activity, ok := ctx.(converter.ActivitySerializationContext)
	data := c.data
	data.blocking = ok && activity.WorkflowID != ""
	if data.blocking == c.data.blocking {
		return c
	}
	return newFailureConverter(data)
}
