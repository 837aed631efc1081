// Package imports registers the connections that a company has already, from a
// file or a stream of any length: connections at once, in batches, and their
// tokens sealed and staged, since the provider must be asked about each of them
// before it is anybody's (activities.CheckStaged does that, at the provider's
// pace).
//
// An import has an ID and remembers how far it has come: run again on the same
// content it goes on where it stopped, and a row that is stored already changes
// nothing.
package imports

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/imports/rows"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const (
	// DefaultPace is how many tokens are asked about in a minute when nothing
	// else is said: what Finch allows of one call.
	DefaultPace = 20

	// A batch is one transaction.
	batchRows  = 500
	batchBytes = 4 << 20
)

// ErrOtherContent: an import of this ID was interrupted that had other content.
var ErrOtherContent = errors.New("the import of this ID had other content where it was interrupted")

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckID says what is wrong with the ID of an import, if anything.
func CheckID(id string) error {
	if !idPattern.MatchString(id) {
		return errors.New("the ID of an import must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit")
	}
	return nil
}

// Store is what an import needs of the database; *db.DB is one.
type Store interface {
	BeginImport(ctx context.Context, id string, reports bool) (db.Import, error)
	WriteImport(ctx context.Context, b db.ImportBatch) (db.ImportWritten, error)
}

// Importer imports. Its fields are required unless they say otherwise.
type Importer struct {
	Store Store
	Keys  *secrets.Keys
	// Campaigns are the names of the campaigns that there are; nil takes every name.
	Campaigns []string
	// Applications are the names of the applications that are configured; nil takes
	// every name.
	Applications []string
	Now          func() time.Time
	// Wrote hears of every part that was stored. Optional.
	Wrote func(Part)
}

// Part is a part of an import that was stored, and how far it is now.
type Part struct {
	db.ImportWritten
	Line, Bytes int64
	Totals      db.ImportTotals
}

// Job is what to import.
type Job struct {
	ID string
	// Reports: connections that turn out to be stale are reported.
	Reports bool
	// Format is found out from the content if empty.
	Format  rows.Format
	Content io.Reader
}

// Result is what became of an import.
type Result struct {
	ID     string
	Format rows.Format
	// Resumed is the line after which it went on; 0 if it began.
	Resumed int64
	Totals  db.ImportTotals
}

// Import reads the content to its end. When it fails or is interrupted,
// everything up to some line is stored and nothing after it; the same job goes
// on there. The error is a *rows.FileError where the content is wrong as a whole.
func (i *Importer) Import(ctx context.Context, job Job) (Result, error) {
	result := Result{ID: job.ID}
	if err := CheckID(job.ID); err != nil {
		return result, err
	}
	reader, err := rows.NewReader(job.Content, rows.Options{Format: job.Format, Campaigns: i.Campaigns, Applications: i.Applications, Now: i.Now()})
	if err != nil {
		return result, err
	}
	result.Format = reader.Format()
	begun, err := i.Store.BeginImport(ctx, job.ID, job.Reports)
	if err != nil {
		return result, err
	}
	result.Totals, result.Resumed = begun.ImportTotals, begun.LinesDone
	if begun.LinesDone > 0 {
		reached, err := reader.SkipTo(begun.LinesDone)
		if err != nil {
			return result, fmt.Errorf("read what was imported before: %w", err)
		}
		if !reached || !bytes.Equal(reader.Digest(), begun.Digest) {
			return result, ErrOtherContent
		}
	}
	at := begun.LinesDone
	for last := false; !last; {
		batch, err := i.next(ctx, reader, begun)
		if err != nil {
			return result, err
		}
		batch.From, last = at, batch.Last
		written, err := i.Store.WriteImport(ctx, batch)
		if err != nil {
			return result, err
		}
		at = batch.Done
		add(&result.Totals, written.ImportTotals)
		if i.Wrote != nil {
			i.Wrote(Part{written, reader.Line(), reader.Bytes(), result.Totals})
		}
	}
	return result, nil
}

// next reads the next batch.
func (i *Importer) next(ctx context.Context, reader *rows.Reader, begun db.Import) (db.ImportBatch, error) {
	batch := db.ImportBatch{ImportID: begun.ID}
	start := reader.Bytes()
	for len(batch.Rows)+len(batch.Rejected) < batchRows && reader.Bytes()-start < batchBytes {
		if err := ctx.Err(); err != nil {
			return batch, err
		}
		row, err := reader.Next()
		var problem *rows.Problem
		switch {
		case errors.Is(err, io.EOF):
			batch.Last = true
			batch.Done, batch.Digest = reader.Line(), reader.Digest()
			return batch, nil
		case errors.As(err, &problem):
			batch.Rejected = append(batch.Rejected, db.ImportReject{Line: problem.Line, ConnectionID: problem.ConnectionID, Problem: problem.Message})
			continue
		case err != nil:
			return batch, fmt.Errorf("read after line %d: %w", reader.Line(), err)
		}
		stored, err := i.row(row, begun)
		if err != nil {
			return batch, err
		}
		batch.Rows = append(batch.Rows, stored)
	}
	batch.Done, batch.Digest = reader.Line(), reader.Digest()
	return batch, nil
}

// row is a row as it is stored, its token sealed.
func (i *Importer) row(row rows.Row, begun db.Import) (db.ImportRow, error) {
	out := db.ImportRow{Line: row.Line, Connection: row.Connection, Given: db.Given(row.Given)}
	if row.Token == "" {
		return out, nil
	}
	fingerprint := reauth.Fingerprint(row.Token.Reveal())
	content := staged{AccessToken: row.Token.Reveal()}
	if row.Connection.ConnectionID == "" {
		content.Connection, content.Given = &row.Connection, out.Given
	}
	text, err := json.Marshal(content)
	if err != nil {
		return out, errors.New("write a token to be sealed")
	}
	sealed, err := i.Keys.Seal(text, Bound(begun.ID, fingerprint)...)
	if err != nil {
		return out, err
	}
	out.Token = &db.ImportToken{Fingerprint: fingerprint, Sealed: sealed, MintedAt: row.MintedAt}
	if row.MintedAt.IsZero() {
		// Of tokens whose age nobody knows, a later line counts as newer; all of
		// them are newer than what was stored before, as a token given to PUT is.
		out.Token.MintedAt = begun.BeganAt.Add(time.Duration(row.Line) * time.Microsecond)
	}
	return out, nil
}

// staged is what is sealed of a row: its token, and the connection where only
// the provider can say which it is.
type staged struct {
	AccessToken string             `json:"access_token"`
	Connection  *reauth.Connection `json:"connection,omitempty"`
	Given       db.Given           `json:"given"`
}

// Bound is what the seal of a staged token is bound to.
func Bound(importID, fingerprint string) []string { return []string{"staged", importID, fingerprint} }

// Open opens a staged token: the token, and the row that came with it.
func Open(keys *secrets.Keys, t db.StagedToken) (token secrets.Secret, row db.ImportRow, err error) {
	text, err := keys.Open(t.Sealed, Bound(t.ImportID, t.Fingerprint)...)
	if err != nil {
		return "", row, err
	}
	var content staged
	if json.Unmarshal(text, &content) != nil || content.AccessToken == "" {
		return "", row, secrets.ErrSealed
	}
	row = db.ImportRow{Line: t.Line, Given: content.Given}
	if content.Connection != nil {
		row.Connection = *content.Connection
	}
	return secrets.Secret(content.AccessToken), row, nil
}

func add(to *db.ImportTotals, t db.ImportTotals) {
	to.Rows += t.Rows
	to.Rejected += t.Rejected
	to.Created += t.Created
	to.Updated += t.Updated
	to.Staged += t.Staged
	to.Known += t.Known
}

// Check reads content without storing anything, and tells what is wrong with it.
func Check(content io.Reader, options rows.Options, rejected func(rows.Problem)) (format rows.Format, read, wrong int64, err error) {
	reader, err := rows.NewReader(content, options)
	if err != nil {
		return "", 0, 0, err
	}
	for {
		_, err := reader.Next()
		var problem *rows.Problem
		switch {
		case errors.Is(err, io.EOF):
			return reader.Format(), read, wrong, nil
		case errors.As(err, &problem):
			wrong++
			rejected(*problem)
		case err != nil:
			return reader.Format(), read, wrong, fmt.Errorf("read after line %d: %w", reader.Line(), err)
		}
		read++
	}
}

// Takes is how long it takes to ask about so many tokens, so many a minute.
func Takes(tokens int64, pace int) time.Duration {
	return time.Duration(tokens) * time.Minute / time.Duration(max(pace, 1))
}
