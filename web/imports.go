package web

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/imports"
	"github.com/finch-reauth/reauth/imports/rows"
)

const (
	importPath = "/v1/connections:import"
	// maxImport bounds the body of an import, which is never held in memory.
	maxImport = 1 << 30
	// importAtMost is how long an import may take in all.
	importAtMost = 6 * time.Hour
	// importPatience is how long an import waits for the client's next bytes.
	importPatience = time.Minute
	// shownRejects is how many rejected rows the answer to an import lists.
	shownRejects = 100
)

// ImportView is an import, and what became of it so far.
type ImportView struct {
	ImportID  string       `json:"import_id"`
	Complete  bool         `json:"complete" doc:"All of its content has been read. Where it is not, the same content sent again under the same import_id goes on."`
	Line      int64        `json:"line" doc:"How many lines of its content are done."`
	Rows      int64        `json:"rows"`
	Rejected  int64        `json:"rejected" doc:"Rows of which nothing was stored."`
	Created   int64        `json:"created" doc:"Connections that were new. Those whose ID the provider must tell come later."`
	Updated   int64        `json:"updated" doc:"Known connections of which something changed."`
	Known     int64        `json:"known" doc:"Tokens that were handed in before."`
	Tokens    ImportTokens `json:"tokens"`
	Problem   string       `json:"problem,omitempty" doc:"Why tokens that wait were put off, if they were."`
	BeganAt   time.Time    `json:"began_at"`
	UpdatedAt time.Time    `json:"updated_at"`
}

// ImportTokens counts the tokens of an import by what the provider has said.
type ImportTokens struct {
	Waiting          int64 `json:"waiting" doc:"The provider has not been asked about them."`
	Adopted          int64 `json:"adopted" doc:"They are their connections' tokens: the newest its current one, the others older generations."`
	Stale            int64 `json:"stale" doc:"The provider only says that the customer must log in again. They are kept, and asked about again when they are needed."`
	Rejected         int64 `json:"rejected" doc:"They cannot be used, and were erased."`
	EstimatedSeconds int64 `json:"estimated_seconds" doc:"How long it takes, about, until the provider has been asked about all that wait, with what other imports have before them."`
}

// ImportedBody is the answer to an import.
type ImportedBody struct {
	ImportView
	RejectedRows []RejectedRow `json:"rejected_rows" nullable:"false" doc:"The first 100 rejected rows; GET /v1/imports/{import_id}/rejected lists them all."`
}

// RejectedRow is a row of which nothing was stored, or whose token was refused.
type RejectedRow struct {
	Line         int64  `json:"line"`
	ConnectionID string `json:"connection_id,omitempty"`
	Problem      string `json:"problem" doc:"What was wrong, and what would be right."`
}

// ImportList is one page of imports.
type ImportList struct {
	Imports    []ImportView `json:"imports" nullable:"false"`
	NextCursor string       `json:"next_cursor,omitempty" doc:"Gives the next page; absent on the last one."`
}

// RejectedList is one page of rejected rows.
type RejectedList struct {
	Rows       []RejectedRow `json:"rows" nullable:"false"`
	NextCursor string        `json:"next_cursor,omitempty" doc:"Gives the next page; absent on the last one."`
}

// ImportPathParam is the path of the calls about one import.
type ImportPathParam struct {
	ImportID string `path:"import_id" maxLength:"64" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" patternDescription:"1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit" doc:"What the import is called."`
}

func (s *server) importRoutes(api huma.API) {
	op := operation("import-connections", http.MethodPost, importPath, tagConnections, "Import connections",
		"Takes CSV with a header line or NDJSON, up to 1 GiB, and reads it as it arrives. Each row is a connection as `PUT` takes it (in CSV: contact_email, contact_name, contact2_email …), its `connection_id`, its `access_token`, or both, and `minted_at`, which tells the newest of several tokens. What a row is silent of stays as it is stored.\n\n"+
			"Connections that a row names are registered at once. Tokens are sealed, and the provider is asked about each of them in the background; who needs one before asks about it at once. A row that is wrong is rejected by itself and listed in the answer. Sent again, a row changes nothing.",
		ScopeConnections)
	op = answers(op, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity)
	op.Parameters = []*huma.Param{
		queryParam("import_id", "What the import is called. Under the name of one that was interrupted, the same content goes on where it stopped. Without it, a new name."),
		queryParam("format", "csv or ndjson. Without it, the content tells."),
		queryParam("reports", "false: connections that turn out to be stale open no case."),
	}
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/x-ndjson": {Schema: &huma.Schema{Type: huma.TypeString}}, "text/csv": {Schema: &huma.Schema{Type: huma.TypeString}},
	}}
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The content was read to its end. Rows may have been rejected.",
		Content: map[string]*huma.MediaType{"application/json": {
			Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[ImportedBody](), true, "ImportedBody"),
		}},
	}}
	for _, status := range op.Errors {
		op.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status), Content: map[string]*huma.MediaType{
			"application/problem+json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[huma.ErrorModel](), true, "ErrorModel")},
		}}
	}
	api.OpenAPI().AddOperation(&op)
	// A key that is limited to an application is refused: rows may be of any, and
	// some turn out to be another's. Not by huma, which reads a body into memory.
	s.mux.Handle("POST "+importPath, s.guard(false, ScopeConnections, http.HandlerFunc(s.importConnections)))

	huma.Register(api, operation("list-imports", http.MethodGet, "/v1/imports", tagConnections, "List imports",
		"The newest first.", ScopeConnections, ScopeOperator), s.listImports)
	huma.Register(api, answers(operation("get-import", http.MethodGet, "/v1/imports/{import_id}", tagConnections, "Read how far an import is",
		"What was read, and what the provider has said of its tokens.", ScopeConnections, ScopeOperator), http.StatusNotFound), s.getImport)
	huma.Register(api, answers(operation("list-rejected", http.MethodGet, "/v1/imports/{import_id}/rejected", tagConnections, "List the rejected rows of an import",
		"By line, each with what would be right: rows of which nothing was stored, and those whose token the provider has refused since.", ScopeConnections, ScopeOperator), http.StatusNotFound), s.listRejected)
}

func queryParam(name, doc string) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: doc, Schema: &huma.Schema{Type: huma.TypeString}}
}

// importConnections reads an import as it arrives.
func (s *server) importConnections(w http.ResponseWriter, r *http.Request) {
	job, err := importJob(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	control := http.NewResponseController(w)
	job.Content = &patientReader{body: r.Body, control: control, now: time.Now}
	importer := imports.Importer{
		Store: s.DB, Keys: s.Keys, Campaigns: s.Campaigns, Applications: s.applicationNames(), Now: s.Now,
		Wrote: func(p imports.Part) {
			_ = control.SetWriteDeadline(time.Now().Add(importPatience)) // a test's recorder has none
			s.contactsChanged(r.Context(), p.Contacts, "The connection was imported with other contacts.")
		},
	}
	if _, err := importer.Import(r.Context(), job); err != nil {
		writeProblem(w, s.importProblem(r.Context(), job.ID, err))
		return
	}
	body, err := s.imported(r.Context(), job.ID)
	if err != nil {
		writeProblem(w, err)
		return
	}
	writeJSON(w, http.StatusOK, body)
}

// importJob reads what a request says beside its body. The error is a problem.
func importJob(r *http.Request) (imports.Job, error) {
	job := imports.Job{ID: strings.ToLower(rand.Text()), Reports: true}
	query := r.URL.Query()
	for name, values := range query {
		value := values[len(values)-1]
		switch name {
		case "import_id":
			if err := imports.CheckID(value); err != nil {
				return job, fieldProblem("query.import_id", err.Error())
			}
			job.ID = value
		case "format":
			if job.Format = rows.Format(value); job.Format != rows.CSV && job.Format != rows.NDJSON {
				return job, fieldProblem("query.format", "must be csv or ndjson")
			}
		case "reports":
			reports, err := strconv.ParseBool(value)
			if err != nil {
				return job, fieldProblem("query.reports", "must be true or false")
			}
			job.Reports = reports
		default:
			return job, fieldProblem("query", "has a parameter that this call does not know; known are format, import_id, reports")
		}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return job, problem(http.StatusUnsupportedMediaType, "The body is compressed; send it as it is.")
	}
	return job, nil
}

// importProblem says why an import ended early.
func (s *server) importProblem(ctx context.Context, id string, err error) error {
	goOn := " Everything before is stored; the same content sent again with import_id=" + id + " goes on there."
	var file *rows.FileError
	switch {
	case errors.As(err, &file):
		return fieldProblem("body", file.Error())
	case errors.Is(err, imports.ErrOtherContent):
		return problem(http.StatusConflict, "The import "+id+" was interrupted, and what it had read is not what this body begins with. Send the same content, or take another import_id.")
	case errors.Is(err, db.ErrImportMoved):
		return problem(http.StatusConflict, "The import "+id+" is being carried on by somebody else just now.")
	case tooLarge(err):
		return problem(http.StatusRequestEntityTooLarge, "The body is larger than 1 GiB. Send it in parts."+goOn)
	case errors.Is(err, db.ErrUnavailable):
		_ = s.databaseDown(ctx, "importing connections", err)
		return unavailable("The database cannot be reached." + goOn)
	case ctx.Err() != nil:
		return problem(http.StatusRequestTimeout, "The body ended early."+goOn)
	}
	s.complain(ctx, "an import broke off", "importing connections", err)
	return unavailable("The import broke off." + goOn)
}

// patientReader bounds how long the client's next bytes may take, and not how
// long all of them do.
type patientReader struct {
	body    interface{ Read([]byte) (int, error) }
	control *http.ResponseController
	now     func() time.Time
}

func (p *patientReader) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(p.now().Add(importPatience)) // a test's recorder has none
	return p.body.Read(b)
}

func (s *server) imported(ctx context.Context, id string) (ImportedBody, error) {
	view, err := s.importView(ctx, id)
	if err != nil {
		return ImportedBody{}, err
	}
	list, _, err := s.DB.ImportRejects(ctx, id, "", shownRejects)
	if err != nil {
		return ImportedBody{}, s.databaseDown(ctx, "listing rejected rows", err)
	}
	return ImportedBody{ImportView: view, RejectedRows: rejectedRows(list)}, nil
}

func (s *server) importView(ctx context.Context, id string) (ImportView, error) {
	p, err := s.DB.ImportByID(ctx, id)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return ImportView{}, problem(http.StatusNotFound, "There is no import "+id+"; GET /v1/imports lists them.")
	case err != nil:
		return ImportView{}, s.databaseDown(ctx, "reading an import", err)
	}
	return s.viewOf(p), nil
}

func (s *server) viewOf(p db.ImportProgress) ImportView {
	return ImportView{
		ImportID: p.ID, Complete: p.ReadAt != nil, Line: p.LinesDone,
		Rows: p.Rows, Rejected: p.Rejected, Created: p.Created, Updated: p.Updated, Known: p.Known,
		Tokens: ImportTokens{
			Waiting: p.Waiting, Adopted: p.Adopted, Stale: p.Stale, Rejected: p.RejectedTokens,
			EstimatedSeconds: int64(imports.Takes(p.Ahead, s.ImportPace).Seconds()),
		},
		Problem: p.Problem, BeganAt: p.BeganAt, UpdatedAt: p.UpdatedAt,
	}
}

func rejectedRows(list []db.ImportReject) []RejectedRow {
	out := make([]RejectedRow, len(list))
	for i, r := range list {
		out[i] = RejectedRow{Line: r.Line, ConnectionID: r.ConnectionID, Problem: r.Problem}
	}
	return out
}

func (s *server) listImports(ctx context.Context, in *Paging) (*struct{ Body ImportList }, error) {
	list, next, err := s.DB.Imports(ctx, in.Cursor, in.Limit)
	if err != nil {
		return nil, s.notListed(ctx, "listing imports", err)
	}
	views := make([]ImportView, len(list))
	for i, p := range list {
		views[i] = s.viewOf(p)
	}
	return &struct{ Body ImportList }{ImportList{Imports: views, NextCursor: next}}, nil
}

func (s *server) getImport(ctx context.Context, in *ImportPathParam) (*struct{ Body ImportView }, error) {
	view, err := s.importView(ctx, in.ImportID)
	return &struct{ Body ImportView }{view}, err
}

type listRejectedInput struct {
	ImportPathParam
	Paging
}

func (s *server) listRejected(ctx context.Context, in *listRejectedInput) (*struct{ Body RejectedList }, error) {
	if _, err := s.importView(ctx, in.ImportID); err != nil {
		return nil, err
	}
	list, next, err := s.DB.ImportRejects(ctx, in.ImportID, in.Cursor, in.Limit)
	if err != nil {
		return nil, s.notListed(ctx, "listing rejected rows", err)
	}
	return &struct{ Body RejectedList }{RejectedList{Rows: rejectedRows(list), NextCursor: next}}, nil
}
