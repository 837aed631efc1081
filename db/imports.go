package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/finch-reauth/reauth/reauth"
)

// ErrImportMoved: somebody else carries this import on at the same time.
var ErrImportMoved = errors.New("somebody else carries this import on at the same time")

// Import is an import of connections, and what became of it so far.
type Import struct {
	ID string `db:"import_id"`
	// Reports: connections that turn out to be stale are reported.
	Reports bool `db:"reports"`
	// LinesDone is how far it has come in its content, Digest the SHA-256 of
	// the content up to there.
	LinesDone int64  `db:"lines_done"`
	Digest    []byte `db:"content_sha256"`
	ImportTotals
	BeganAt   time.Time  `db:"began_at"`
	UpdatedAt time.Time  `db:"updated_at"`
	ReadAt    *time.Time `db:"read_at"`
}

// ImportTotals counts the rows of an import.
type ImportTotals struct {
	Rows     int64 `db:"rows_read"`
	Rejected int64 `db:"rows_rejected"`
	// Created and Updated count connections: those that were new, and those of
	// which something changed.
	Created int64 `db:"created"`
	Updated int64 `db:"updated"`
	// Staged counts tokens that the provider is asked about, Known those that
	// were stored or staged before.
	Staged int64 `db:"staged"`
	Known  int64 `db:"known"`
}

// ImportProgress is how far the tokens of an import are.
type ImportProgress struct {
	Import
	// By what the provider said of them. Waiting are not asked about yet.
	Waiting, Adopted, Stale, RejectedTokens int64
	// Ahead counts the tokens that wait in all imports.
	Ahead int64
	// Problem is why tokens have been put off that wait, one of the reasons.
	Problem string
}

const selectImports = `
SELECT import_id, reports, lines_done, content_sha256, rows_read, rows_rejected, created, updated, staged, known, began_at, updated_at, read_at FROM imports`

// BeginImport begins an import, or goes on with one that was interrupted. One
// that had come to its end begins anew.
func (d *DB) BeginImport(ctx context.Context, id string, reports bool) (begun Import, err error) {
	now := d.now()
	err = d.write(ctx, "begin an import", func(ctx context.Context, tx *sqlx.Tx) error {
		if err := exec(ctx, tx, `
INSERT INTO imports (import_id, reports, began_at, updated_at) VALUES ($1, $2, $3, $3) ON CONFLICT (import_id) DO NOTHING`, id, reports, now); err != nil {
			return err
		}
		again, err := changed(ctx, tx, `
UPDATE imports SET lines_done = 0, content_sha256 = '', rows_read = 0, rows_rejected = 0, created = 0, updated = 0, staged = 0, known = 0,
                   reports = $2, began_at = $3, updated_at = $3, read_at = NULL
 WHERE import_id = $1 AND read_at IS NOT NULL`, id, reports, now)
		if err != nil {
			return err
		}
		if again {
			if err := exec(ctx, tx, `DELETE FROM import_rejects WHERE import_id = $1`, id); err != nil {
				return err
			}
		}
		return tx.GetContext(ctx, &begun, selectImports+` WHERE import_id = $1`, id)
	})
	return begun, err
}

// Given says which fields of a connection a row of an import speaks of. What it
// is silent of stays as it is stored.
type Given struct {
	Provider, Application, CustomerID, CustomerName, System, Campaign, Products, Contacts bool
}

// ImportRow is a row that was found to be right.
type ImportRow struct {
	Line int64
	// Connection has no ID where the token is to tell it.
	Connection reauth.Connection
	Given      Given
	// Token is nil in a row without one.
	Token *ImportToken
}

// ImportToken is the token of a row. Sealed is bound to ("staged", import_id,
// fingerprint).
type ImportToken struct {
	Fingerprint string
	Sealed      []byte
	MintedAt    time.Time
}

// ImportReject is a row of which nothing was stored, and why.
type ImportReject struct {
	Line         int64  `db:"line"`
	ConnectionID string `db:"connection_id"`
	Problem      string `db:"problem"`
}

// ImportBatch is a part of an import's content: the lines after From, up to Done.
type ImportBatch struct {
	ImportID   string
	From, Done int64
	Digest     []byte // of the content up to Done
	Rows       []ImportRow
	Rejected   []ImportReject
	Last       bool // it is the end of the content
}

// ImportWritten is what became of a batch.
type ImportWritten struct {
	ImportTotals
	// Rejected are the batch's own and those that only the database could tell.
	Rejected []ImportReject
	// Contacts are the open cases whose connections have other contacts now.
	Contacts []CaseContact
}

// WriteImport stores a part of an import: connections as PutConnection does,
// their tokens as staged, and what was rejected, all of it or nothing, with a
// few statements however many rows there are. ErrImportMoved when the import
// does not stand where the batch begins.
//
// The connections are locked in the order of their IDs, so that no two imports
// wait for each other.
func (d *DB) WriteImport(ctx context.Context, b ImportBatch) (out ImportWritten, err error) {
	now := d.now()
	err = d.write(ctx, "store a part of an import", func(ctx context.Context, tx *sqlx.Tx) error {
		w := importWriter{tx: tx, now: now, id: b.ImportID}
		w.out.Rejected = append(w.out.Rejected, b.Rejected...)
		w.out.Rows = int64(len(b.Rows) + len(b.Rejected))
		if err := w.write(ctx, b.Rows); err != nil {
			return err
		}
		w.out.ImportTotals.Rejected = int64(len(w.out.Rejected))
		t := w.out.ImportTotals
		moved, err := changed(ctx, tx, `
UPDATE imports SET lines_done = $3, content_sha256 = $4, updated_at = $5, read_at = CASE WHEN $6 THEN $5::timestamptz END,
       rows_read = rows_read + $7, rows_rejected = rows_rejected + $8, created = created + $9, updated = updated + $10,
       staged = staged + $11, known = known + $12
 WHERE import_id = $1 AND lines_done = $2 AND read_at IS NULL`,
			b.ImportID, b.From, b.Done, b.Digest, now, b.Last, t.Rows, t.Rejected, t.Created, t.Updated, t.Staged, t.Known)
		if err == nil && !moved {
			err = ErrImportMoved
		}
		out = w.out
		return err
	})
	if err != nil {
		return ImportWritten{}, err
	}
	return out, nil
}

type importWriter struct {
	tx  *sqlx.Tx
	now time.Time
	id  string
	out ImportWritten
}

func (w *importWriter) write(ctx context.Context, rows []ImportRow) error {
	rows, tokens, err := w.settleTokens(ctx, rows)
	if err != nil {
		return err
	}
	put, err := putConnections(ctx, w.tx, merge(rows), w.now)
	if err != nil {
		return err
	}
	w.out.Created, w.out.Updated, w.out.Contacts = put.created, put.updated, put.contacts
	if err := w.stage(ctx, tokens); err != nil {
		return err
	}
	if len(w.out.Rejected) == 0 {
		return nil
	}
	list, err := json.Marshal(rejectsJSON(w.out.Rejected))
	if err != nil {
		return err
	}
	return exec(ctx, w.tx, `
INSERT INTO import_rejects (import_id, line, connection_id, problem)
SELECT $1, i.line, i.id, i.problem FROM json_to_recordset($2) AS i(line bigint, id text, problem text)`, w.id, string(list))
}

type rejectJSON struct {
	Line    int64  `json:"line"`
	ID      string `json:"id"`
	Problem string `json:"problem"`
}

func rejectsJSON(list []ImportReject) []rejectJSON {
	out := make([]rejectJSON, len(list))
	for i, r := range list {
		out[i] = rejectJSON{r.Line, r.ConnectionID, r.Problem}
	}
	return out
}

// knownToken is what we know of a token before a row hands it in.
type knownToken struct {
	Fingerprint  string `db:"fingerprint"`
	ConnectionID string `db:"connection_id"`
	ImportID     string `db:"import_id"` // empty: it is stored
	Line         int64  `db:"line"`
}

// settleTokens finds out which tokens are known already, rejects the rows that
// give another's, and returns the rows that are left with the tokens to stage.
func (w *importWriter) settleTokens(ctx context.Context, rows []ImportRow) (kept []ImportRow, tokens []stagedJSON, err error) {
	var prints []string
	for _, r := range rows {
		if r.Token != nil {
			prints = append(prints, r.Token.Fingerprint)
		}
	}
	known := map[string]knownToken{}
	if len(prints) > 0 {
		var list []knownToken
		if err := w.tx.SelectContext(ctx, &list, `
SELECT fingerprint, coalesce(connection_id, '') AS connection_id, import_id, line FROM staged_tokens WHERE fingerprint = ANY($1)
UNION ALL
SELECT fingerprint, connection_id, '', 0 FROM tokens WHERE fingerprint = ANY($1)`, pq.Array(prints)); err != nil {
			return nil, nil, err
		}
		for _, t := range list { // what is stored comes last, and counts
			known[t.Fingerprint] = t
		}
	}
	for _, r := range rows {
		if r.Token == nil {
			kept = append(kept, r)
			continue
		}
		t, isKnown := known[r.Token.Fingerprint]
		stored := isKnown && t.ImportID == ""
		sibling := isKnown && t.ImportID == w.id && t.Line != r.Line // another row of this import has it
		named := r.Connection.ConnectionID
		switch {
		case stored && named != "" && named != t.ConnectionID:
			w.reject(r, "access_token: is stored as another connection's token")
			continue
		case sibling && named != "" && t.ConnectionID != "" && named != t.ConnectionID:
			w.reject(r, "access_token: stands in line "+strconv.FormatInt(t.Line, 10)+" already, with another connection_id")
			continue
		case isKnown && named == "":
			r.Connection.ConnectionID = t.ConnectionID
		}
		kept = append(kept, r)
		if stored || sibling && (t.ConnectionID != "" || named == "") {
			w.out.Known++
			continue
		}
		staged := stagedJSON{
			Fingerprint: r.Token.Fingerprint, Line: r.Line, Sealed: r.Token.Sealed, MintedAt: r.Token.MintedAt,
		}
		if r.Connection.ConnectionID != "" {
			staged.ConnectionID = &r.Connection.ConnectionID
		} else if r.Given.Application {
			staged.Application = r.Connection.Application
		}
		tokens = append(tokens, staged)
		known[r.Token.Fingerprint] = knownToken{r.Token.Fingerprint, r.Connection.ConnectionID, w.id, r.Line}
	}
	return kept, tokens, nil
}

func (w *importWriter) reject(r ImportRow, problem string) {
	w.out.Rejected = append(w.out.Rejected, ImportReject{Line: r.Line, ConnectionID: r.Connection.ConnectionID, Problem: problem})
}

type stagedJSON struct {
	Fingerprint  string    `json:"fp"`
	Line         int64     `json:"line"`
	ConnectionID *string   `json:"cid"`
	Application  string    `json:"app"`
	Sealed       []byte    `json:"sealed"`
	MintedAt     time.Time `json:"minted"`
}

// stage keeps tokens to be asked about. One that was asked about before is only
// asked about again where the row says something else of it, or where it may
// have come back to life.
func (w *importWriter) stage(ctx context.Context, tokens []stagedJSON) error {
	if len(tokens) == 0 {
		return nil
	}
	tokens = lastOfEach(tokens)
	list, err := json.Marshal(tokens)
	if err != nil {
		return err
	}
	staged, err := affected(ctx, w.tx, `
INSERT INTO staged_tokens AS s (fingerprint, import_id, line, connection_id, application, sealed, minted_at, state, turn, due_at)
SELECT i.fp, $1, i.line, i.cid, i.app, decode(i.sealed, 'base64'), i.minted, 'waiting', CASE WHEN c.generation IS NULL THEN 0 ELSE 1 END, $3
  FROM json_to_recordset($2) AS i(fp text, line bigint, cid text, app text, sealed text, minted timestamptz)
  LEFT JOIN connections c ON c.connection_id = i.cid
 ORDER BY i.fp
ON CONFLICT (fingerprint) DO UPDATE
   SET import_id = excluded.import_id, line = excluded.line, connection_id = excluded.connection_id, application = excluded.application,
       sealed = excluded.sealed, minted_at = excluded.minted_at, state = 'waiting', detail = '', generation = NULL, turn = excluded.turn,
       due_at = excluded.due_at, attempts = 0, report_due = false
 WHERE s.state IN ('stale', 'adopted') OR (s.connection_id, s.application) IS DISTINCT FROM (excluded.connection_id, excluded.application)`,
		w.id, string(list), w.now)
	if err != nil {
		return err
	}
	w.out.Staged += int64(staged)
	w.out.Known += int64(len(tokens) - staged)
	return nil
}

// lastOfEach keeps the last row of each token: one statement may touch a row once.
func lastOfEach(tokens []stagedJSON) []stagedJSON {
	at := make(map[string]int, len(tokens))
	kept := tokens[:0:0]
	for _, t := range tokens {
		if i, ok := at[t.Fingerprint]; ok {
			kept[i] = t
			continue
		}
		at[t.Fingerprint] = len(kept)
		kept = append(kept, t)
	}
	return kept
}

// merge makes one row of those of the same connection, as if one had been put
// after the other.
func merge(rows []ImportRow) []ImportRow {
	at := make(map[string]int, len(rows))
	merged := make([]ImportRow, 0, len(rows))
	for _, r := range rows {
		if r.Connection.ConnectionID == "" {
			continue // registered once the token has told whose it is
		}
		i, ok := at[r.Connection.ConnectionID]
		if !ok {
			at[r.Connection.ConnectionID] = len(merged)
			merged = append(merged, r)
			continue
		}
		m, g := &merged[i], r.Given
		for _, f := range []struct {
			given   bool
			into    *bool
			replace func()
		}{
			{g.Provider, &m.Given.Provider, func() { m.Connection.Provider = r.Connection.Provider }},
			{g.Application, &m.Given.Application, func() { m.Connection.Application = r.Connection.Application }},
			{g.CustomerID, &m.Given.CustomerID, func() { m.Connection.CustomerID = r.Connection.CustomerID }},
			{g.CustomerName, &m.Given.CustomerName, func() { m.Connection.CustomerName = r.Connection.CustomerName }},
			{g.System && r.Connection.System != "", &m.Given.System, func() { m.Connection.System = r.Connection.System }},
			{g.Campaign, &m.Given.Campaign, func() { m.Connection.Campaign = r.Connection.Campaign }},
			{g.Products, &m.Given.Products, func() { m.Connection.Products = r.Connection.Products }},
			{g.Contacts, &m.Given.Contacts, func() { m.Connection.Contacts = r.Connection.Contacts }},
		} {
			if f.given {
				*f.into = true
				f.replace()
			}
		}
	}
	return merged
}

// ImportByID returns an import and how far its tokens are. ErrNotFound when
// there is none.
func (d *DB) ImportByID(ctx context.Context, id string) (p ImportProgress, err error) {
	err = d.read(ctx, "read an import", func(ctx context.Context) error {
		one := make([]ImportProgress, 1)
		if err := d.sqlx.GetContext(ctx, &one[0].Import, selectImports+` WHERE import_id = $1`, id); err != nil {
			return err
		}
		err := d.progress(ctx, one)
		p = one[0]
		return err
	})
	return p, err
}

// progress says of each import how far its tokens are.
func (d *DB) progress(ctx context.Context, list []ImportProgress) error {
	ids, of := make([]string, len(list)), make(map[string]*ImportProgress, len(list))
	for i := range list {
		ids[i], of[list[i].ID] = list[i].ID, &list[i]
	}
	var states []struct {
		ImportID string `db:"import_id"`
		State    string `db:"state"`
		Count    int64  `db:"count"`
		Problem  string `db:"problem"`
	}
	if err := d.sqlx.SelectContext(ctx, &states, `
SELECT import_id, state, count(*) AS count, coalesce(max(detail), '') AS problem
  FROM staged_tokens WHERE import_id = ANY($1) GROUP BY import_id, state`, pq.Array(ids)); err != nil {
		return err
	}
	waiting := false
	for _, s := range states {
		p := of[s.ImportID]
		switch StagedState(s.State) {
		case StagedWaiting:
			p.Waiting, p.Problem, waiting = s.Count, s.Problem, true
		case StagedAdopted:
			p.Adopted = s.Count
		case StagedStale:
			p.Stale = s.Count
		case StagedRejected:
			p.RejectedTokens = s.Count
		}
	}
	if !waiting {
		return nil
	}
	var ahead int64
	if err := d.sqlx.GetContext(ctx, &ahead, `SELECT count(*) FROM staged_tokens WHERE state = 'waiting'`); err != nil {
		return err
	}
	for _, p := range of {
		if p.Waiting > 0 {
			p.Ahead = ahead
		}
	}
	return nil
}

// Imports lists imports, the newest first. next is empty after the last page.
func (d *DB) Imports(ctx context.Context, after string, limit int) (list []ImportProgress, next string, err error) {
	const listName = "imports"
	from, given, err := parseCursor(listName, after)
	if err != nil {
		return nil, "", fmt.Errorf("list imports: %w", err)
	}
	limit = page(limit)
	err = d.read(ctx, "list imports", func(ctx context.Context) error {
		var rows []Import
		if err := d.sqlx.SelectContext(ctx, &rows, selectImports+`
 WHERE NOT $1 OR (began_at, import_id) < ($2, $3) ORDER BY began_at DESC, import_id DESC LIMIT $4`, given, from.At, from.ID, limit+1); err != nil {
			return err
		}
		if len(rows) > limit {
			rows = rows[:limit]
			next = cursor{List: listName, At: rows[limit-1].BeganAt, ID: rows[limit-1].ID}.String()
		}
		list = make([]ImportProgress, len(rows))
		for i, row := range rows {
			list[i].Import = row
		}
		return d.progress(ctx, list)
	})
	return list, next, err
}

// ImportRejects lists what was rejected of an import, by line: the rows of
// which nothing was stored, and those whose token was refused later.
func (d *DB) ImportRejects(ctx context.Context, id, after string, limit int) (list []ImportReject, next string, err error) {
	const listName = "rejects"
	from, given, err := parseCursor(listName, after)
	if err != nil {
		return nil, "", fmt.Errorf("list rejected rows: %w", err)
	}
	var line int64
	if given {
		if line, err = strconv.ParseInt(from.ID, 10, 64); err != nil {
			return nil, "", fmt.Errorf("list rejected rows: %w", ErrBadCursor)
		}
	}
	limit = page(limit)
	err = d.read(ctx, "list rejected rows", func(ctx context.Context) error {
		if err := d.sqlx.SelectContext(ctx, &list, `
(SELECT line, connection_id, problem FROM import_rejects WHERE import_id = $1 AND line > $2 ORDER BY line LIMIT $3)
UNION ALL
(SELECT line, coalesce(connection_id, ''), detail FROM staged_tokens
  WHERE import_id = $1 AND state = 'rejected' AND line > $2 ORDER BY line LIMIT $3)
ORDER BY line LIMIT $3`, id, line, limit+1); err != nil {
			return err
		}
		if len(list) > limit {
			list = list[:limit]
			next = cursor{List: listName, ID: strconv.FormatInt(list[limit-1].Line, 10)}.String()
		}
		return nil
	})
	return list, next, err
}
