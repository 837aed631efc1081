package db_test

import (
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
)

// Rows that would be wrong cannot be written, not even past this package.
func TestWrongRowsAreImpossible(t *testing.T) {
	s := newStore(t)
	s.connect(t, "c1", "anna@example.com")
	s.connect(t, "c2", "bob@example.com")
	for i, token := range []string{"old", "new"} {
		_, err := s.Adopt(s.ctx, adoption("c1", token, t0.Add(time.Duration(i)*time.Hour)))
		require.NoError(t, err)
	}
	s.open(t, "c1", "k1", t0)
	s.end(t, "k1", reauth.OutcomeExpired, t0)
	s.open(t, "c1", "k2", t0.Add(time.Hour))
	s.open(t, "c2", "k3", t0)
	_, _, err := s.EnsureLink(s.ctx, "c1", "operator", 1, linkHash)
	require.NoError(t, err)
	_, _, _, err = s.BeginNotice(s.ctx, notice("k2", "first", db.RecipientOperator))
	require.NoError(t, err)

	require.NoError(t, s.SeeEntities(s.ctx, "c1", reauth.Entities{{EntityID: "e1", Name: "East", Status: "connected"}}, t0))
	require.NoError(t, s.Quarantine(s.ctx, db.QuarantinedToken{Fingerprint: hex32, Sealed: []byte("x"), At: t0}))
	_, err = s.BeginImport(s.ctx, "i1", true)
	require.NoError(t, err)
	_, err = s.raw.Exec(`INSERT INTO staged_tokens (fingerprint, import_id, line, connection_id, sealed, minted_at, state, due_at)
VALUES ('ffffffffffffffffffffffffffffffff', 'i1', 1, 'c1', 'x', now(), 'waiting', now())`)
	require.NoError(t, err)

	const fp = `'0123456789abcdef0123456789abcdef'`
	for name, test := range map[string]struct{ statement, constraint string }{
		"an entity of nobody":            {`INSERT INTO entities (connection_id, entity_id, position, name, status, since, seen_at) VALUES ('c9', 'e', 1, '', 'x', now(), now())`, "entities_connection_id_fkey"},
		"an entity in no status":         {`UPDATE entities SET status = ''`, "entities_status_set"},
		"an entity that nobody saw":      {`UPDATE entities SET since = seen_at + interval '1 s'`, "entities_since_before_seen"},
		"told of an entity that is here": {`UPDATE entities SET told_at = now()`, "entities_told_of_gone_ones"},
		"disconnected, and not removed":  {`UPDATE connections SET disconnected_at = now() WHERE connection_id = 'c2'`, "connections_disconnected_is_removed"},
		"an ended token that is kept":    {`UPDATE quarantined_tokens SET ended_at = now(), ended_how = 'gone'`, "quarantined_erased_iff_ended"},
		"an erased token without an end": {`UPDATE quarantined_tokens SET sealed = NULL`, "quarantined_erased_iff_ended"},
		"a token that ended somehow":     {`UPDATE quarantined_tokens SET sealed = NULL, ended_at = now()`, "quarantined_ended_somehow"},
		"two open cases":                 {`INSERT INTO cases (case_id, connection_id, provider, application, source, phase, opened_at) VALUES ('k4', 'c1', 'finch', 'default', 'sweep', 'confirming', now())`, "cases_one_open_per_connection"},
		"a closed case opens again":      {`UPDATE cases SET outcome = NULL, closed_at = NULL, phase = 'blocked' WHERE case_id = 'k1'`, "first outcome"},
		"another outcome":                {`UPDATE cases SET outcome = 'healed' WHERE case_id = 'k1'`, "first outcome"},
		"an outcome without an end":      {`UPDATE cases SET outcome = 'healed' WHERE case_id = 'k2'`, "cases_closed_iff_outcome"},
		"an end without an outcome":      {`UPDATE cases SET closed_at = opened_at WHERE case_id = 'k2'`, "cases_closed_iff_outcome"},
		"closed and still in a phase":    {`UPDATE cases SET phase = 'blocked' WHERE case_id = 'k1'`, "cases_closed_iff_outcome"},
		"closed before it opened":        {`UPDATE cases SET outcome = 'healed', phase = 'closed', closed_at = opened_at - interval '1 s' WHERE case_id = 'k2'`, "cases_close_after_open"},
		"a notice planned after the end": {`UPDATE cases SET next_notice_at = now() WHERE case_id = 'k1'`, "cases_closed_plans_nothing"},
		"a case of nobody":               {`INSERT INTO cases (case_id, connection_id, provider, application, source, phase, opened_at) VALUES ('k4', 'c9', 'finch', 'default', 'sweep', 'confirming', now())`, "cases_connection_id_fkey"},
		"two current tokens":             {`UPDATE tokens SET state = 'current' WHERE generation = 1`, "tokens_one_current_per_connection"},
		"no current token":               {`UPDATE tokens SET state = 'superseded' WHERE connection_id = 'c1'`, "connections_generation_is_current"},
		"the current token vanishes":     {`DELETE FROM tokens WHERE generation = 2`, "connections_generation_is_current"},
		"a generation that is not there": {`UPDATE connections SET generation = 1, last_generation = 1 WHERE connection_id = 'c2'`, "connections_generation_is_current"},
		"a generation that goes back":    {`UPDATE connections SET generation = 1 WHERE connection_id = 'c1'`, "never goes back"},
		"the counter that goes back":     {`UPDATE connections SET generation = NULL, last_generation = 1 WHERE connection_id = 'c1'`, "never goes back"},
		"a generation never given":       {`UPDATE connections SET generation = 3 WHERE connection_id = 'c1'`, "connections_generation_given"},
		"a removed one with a token":     {`UPDATE connections SET status = 'removed' WHERE connection_id = 'c1'`, "connections_removed_holds_no_token"},
		"one token of two connections":   {`INSERT INTO tokens SELECT 'c2', 1, 'current', fingerprint, sealed, '', NULL, now(), now() FROM tokens WHERE generation = 1`, "tokens_one_row_per_token"},
		"a token of another's case":      {`INSERT INTO tokens VALUES ('c1', 3, 'superseded', ` + fp + `, 'x', '', 'k3', now(), now())`, "tokens_case_id_connection_id_fkey"},
		"a token in plain text":          {`INSERT INTO tokens VALUES ('c1', 3, 'superseded', 'the token', 'x', '', NULL, now(), now())`, "tokens_fingerprint_form"},
		"an address outside of contacts": {`INSERT INTO links (connection_id, recipient, version, key_id, hash, created_at) VALUES ('c1', 'anna@example.com', 1, 1, sha256('x'), now())`, "links_recipient_form"},
		"an address twice":               {`INSERT INTO contacts (connection_id, position, email, email_key, name, role, locale, time_zone) VALUES ('c1', 1, 'ANNA@example.com', 'anna@example.com', '', '', '', '')`, "contacts_one_per_address"},
		"a removed contact's address":    {`UPDATE contacts SET removed_at = now()`, "contacts_removed_is_blank"},
		"a contact without an address":   {`UPDATE contacts SET email = ''`, "contacts_removed_is_blank"},
		"a notice twice":                 {`INSERT INTO notices (case_id, connection_id, step, session_ordinal, recipient, channel, state, begun_at) VALUES ('k2', 'c1', 'first', 1, 'operator', 'mail', 'sending', now())`, "notices_sent_once"},
		"a notice to another's contact":  {`INSERT INTO notices (case_id, connection_id, step, session_ordinal, recipient, channel, state, begun_at) SELECT 'k2', 'c1', 'first', 1, contact_id, 'mail', 'sending', now() FROM contacts WHERE connection_id = 'c2'`, "notices_contact_id_connection_id_fkey"},
		"a notice of another's case":     {`INSERT INTO notices (case_id, connection_id, step, session_ordinal, recipient, channel, state, begun_at) VALUES ('k3', 'c1', 'first', 1, 'operator', 'mail', 'sending', now())`, "notices_case_id_connection_id_fkey"},
		"a notice that ended unsaid":     {`UPDATE notices SET ended_at = now()`, "notices_sending_iff_not_ended"},
		"two live links":                 {`INSERT INTO links (connection_id, recipient, version, key_id, hash, created_at) VALUES ('c1', 'operator', 2, 1, sha256('x'), now())`, "links_one_live_per_recipient"},
		"a link's secret":                {`INSERT INTO links (connection_id, recipient, version, key_id, hash, created_at) VALUES ('c1', 'a', 1, 1, 'secret', now())`, "links_hash_length"},
		"a settled code without a time":  {`INSERT INTO codes (hash, state, received_at) VALUES (` + fp + `, 'refused', now())`, "codes_settled_iff_final"},
		"a code in plain text":           {`INSERT INTO codes (hash, state, received_at) VALUES ('the code', 'received', now())`, "codes_hash_form"},
		"a released code that is kept":   {`INSERT INTO held_codes (hash, sealed, held_at, released_at) VALUES (` + fp + `, 'x', now(), now())`, "held_codes_erased_iff_released"},
		"an API key in plain text":       {`INSERT INTO api_keys (name, hash, created_at) VALUES ('x', 'the key', now())`, "api_keys_hash_length"},
		"both delivered and given up":    {`INSERT INTO outbox (event_id, type, payload, created_at, due_at, delivered_at, abandoned_at) VALUES ('1', 'x', '{}', now(), now(), now(), now())`, "outbox_one_end"},
		"a staged token in plain text":   {`INSERT INTO staged_tokens (fingerprint, import_id, line, sealed, minted_at, state, due_at) VALUES ('the token', 'i1', 1, 'x', now(), 'waiting', now())`, "staged_fingerprint_form"},
		"a rejected token that is kept":  {`UPDATE staged_tokens SET state = 'rejected'`, "staged_erased_iff_settled"},
		"a waiting token that is erased": {`UPDATE staged_tokens SET sealed = NULL`, "staged_erased_iff_settled"},
		"adopted as no generation":       {`UPDATE staged_tokens SET state = 'adopted', sealed = NULL`, "staged_generation_iff_adopted"},
		"a staged token of nobody":       {`UPDATE staged_tokens SET connection_id = 'c9'`, "staged_tokens_connection_id_fkey"},
		"a staged token of no import":    {`UPDATE staged_tokens SET import_id = 'i9'`, "staged_tokens_import_id_fkey"},
		"an import of no known content":  {`UPDATE imports SET lines_done = 5`, "imports_content_iff_begun"},
		"a rejected row without a why":   {`INSERT INTO import_rejects (import_id, line, problem) VALUES ('i1', 1, '')`, "import_rejects_problem_set"},
		"a suppression without an end":   {`UPDATE suppressions SET until = began_at - interval '1 s'`, "suppressions_end_after_begin"},
		"a suppression that is no alarm": {`UPDATE suppressions SET outcome = 'false_alarm'`, "suppressions_false_alarms_counted"},
		"a connection that vanishes":     {`DELETE FROM connections WHERE connection_id = 'c1'`, "fkey"},
		"an event over, and not over":    {`INSERT INTO webhooks (provider, event_id, body_sha256, received_at, connection_id, state, processed_at) VALUES ('finch', '1', sha256('x'), now(), 'c1', 'waiting', now())`, "webhooks_processed_iff_over"},
		"an event that waits for none":   {`INSERT INTO webhooks (provider, event_id, body_sha256, received_at, state) VALUES ('finch', '1', sha256('x'), now(), 'waiting')`, "webhooks_waiting_has_line"},
		"an event in another state":      {`INSERT INTO webhooks (provider, event_id, body_sha256, received_at, state, processed_at) VALUES ('finch', '1', sha256('x'), now(), 'odd', now())`, "webhooks_state_known"},
		"an event's whole body":          {`INSERT INTO webhooks (provider, event_id, body_sha256, received_at, state, processed_at, body) VALUES ('finch', '1', sha256('x'), now(), 'ignored', now(), repeat('x', 3000))`, "webhooks_body_bounded"},
		"a malformed connection ID":      {`INSERT INTO connections (connection_id, provider, application, status, created_at, updated_at) VALUES ('a b', 'finch', 'default', 'stale', now(), now())`, "connections_id_form"},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := s.raw.ExecContext(s.ctx, test.statement)
			if err == nil {
				n, _ := result.RowsAffected()
				t.Fatalf("it could be written: %d rows", n)
			}
			refused := pq.As(err)
			require.NotNil(t, refused)
			assert.Contains(t, refused.Constraint+" "+refused.Message, test.constraint)
			assert.Equal(t, "23", string(refused.Code.Class()), "an integrity constraint")
		})
	}
}

// The identifiers that the contract allows are the ones that can be stored.
func TestConnectionIDs(t *testing.T) {
	s := newStore(t)
	for _, id := range []string{
		"a", "6f1f7cd5-1d52-4a1c-b3ea-7a4a0cf0c5f1", "A.b_c:d-e", "", " ", "-a", "a b", "a/b", "é", "a\n", "a\x00",
		string(make([]byte, 129)), "x" + string(byteString('y', 127)), "x" + string(byteString('y', 128)),
	} {
		_, err := s.PutConnection(s.ctx, reauth.Connection{ConnectionID: id})
		assert.Equal(t, reauth.CheckConnectionID(id) == nil, err == nil, "%q: %v", id, err)
	}
}

const hex32 = "0123456789abcdef0123456789abcde0"

func byteString(b byte, n int) []byte {
	text := make([]byte, n)
	for i := range text {
		text[i] = b
	}
	return text
}
