package web

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/register"
)

// BounceBody is an address that must not be written to any more.
type BounceBody struct {
	Email  string `json:"email" maxLength:"254" doc:"The address, in upper or lower case. It need not be a contact's." example:"ada@acme.example"`
	Kind   string `json:"kind,omitempty" enum:"bounce,complaint,opt_out" default:"bounce" doc:"Why: the address takes no mail, its owner reported a mail as spam, or wants no more. Of several the first stands, but anything stands over a bounce."`
	Reason string `json:"reason,omitempty" maxLength:"500" doc:"What your mail service said, for operators. Addresses are taken out of it." example:"550 5.1.1 no such user"`
}

// RestoreBody is an address that may be written to again.
type RestoreBody struct {
	Email string `json:"email" maxLength:"254" doc:"The address, in upper or lower case." example:"ada@acme.example"`
}

// ForgetBody is an address that is to be forgotten.
type ForgetBody struct {
	Email      string `json:"email" maxLength:"254" doc:"The address, in upper or lower case." example:"ada@acme.example"`
	AlsoOptOut bool   `json:"also_opt_out,omitempty" doc:"Forget too that nobody is to write to the address: whoever registers it again has it written to."`
}

// Forgotten says what became of it. It never repeats the address.
type Forgotten struct {
	Contacts         int    `json:"contacts" doc:"How many connections' contacts were blanked."`
	Past             int    `json:"past" doc:"Of how many who had left their connection a hash was deleted."`
	Cases            int    `json:"cases" doc:"How many open cases have lost a contact by it, and hear of it."`
	Unreachable      string `json:"unreachable,omitempty" enum:"bounce,complaint,opt_out" doc:"Why nobody is to write to the address, which stays known by its hash."`
	SealedImportRows int    `json:"sealed_import_rows" doc:"How many rows of imports wait with their contacts sealed, so that nobody can look among them: repeat the call when there are none."`
}

// Reach says whether an address may be written to.
type Reach struct {
	Unreachable bool   `json:"unreachable"`
	Kind        string `json:"kind,omitempty" enum:"bounce,complaint,opt_out" doc:"Why it must not be written to."`
	Cases       int    `json:"cases" doc:"How many open cases have the address among their contacts."`
}

type bounceInput struct{ Body BounceBody }

type restoreInput struct{ Body RestoreBody }

type forgetInput struct{ Body ForgetBody }

type forgottenOutput struct{ Body Forgotten }

type reachOutput struct{ Body Reach }

func (s *server) reachRoutes(api huma.API) {
	register := func(id, path, summary, description string) huma.Operation {
		op := answers(operation(id, http.MethodPost, path, tagContacts, summary, description, ScopeConnections, ScopeOperator), http.StatusUnprocessableEntity)
		op.DefaultStatus = http.StatusOK
		return op
	}
	huma.Register(api, register("bounce", "/v1/contacts/bounce", "Report an address that must not be written to",
		"For what your mail service tells you of an address: a permanent bounce, a complaint, an opt-out. We never write to it again, whoever's contact it is or becomes, and whatever the connection. In every open case that has it among its contacts the next person takes over at once, or the operator hears when nobody is left. A case that cannot be told just now finds out at its next step."), s.bounce)
	huma.Register(api, register("restore", "/v1/contacts/restore", "Write to an address again",
		"Takes back what made an address unreachable, and that its owner said they are not the right person for a connection."), s.restore)
	huma.Register(api, register("forget-contact", "/v1/contacts/forget", "Forget a person",
		"Blanks the address, the name and the rest of it wherever it is a contact's, and lets its links go dead. Open cases go on with the next person. That nobody is to write to the address stays known by its hash. Take the address out of your own records first: a backend that registers it again brings it back."), s.forgetContact)
}

const wantEmail = `must be an e-mail address alone, as "ada@acme.example"`

func (s *server) bounce(ctx context.Context, in *bounceInput) (*reachOutput, error) {
	if !register.ValidEmail(in.Body.Email) {
		return nil, fieldProblem("body.email", wantEmail)
	}
	if !register.Printable(in.Body.Reason) {
		return nil, fieldProblem("body.reason", "must be one line of printable text")
	}
	kind := db.Unreachable(cmp.Or(in.Body.Kind, string(db.UnreachableBounce)))
	cases, first, err := s.DB.SetUnreachable(ctx, in.Body.Email, kind, in.Body.Reason)
	if err != nil {
		return nil, s.databaseDown(ctx, "noting an address that must not be written to", err)
	}
	if first {
		s.contactsChanged(ctx, cases, "A contact's address must not be written to any more: "+string(kind)+".")
	}
	if kind, err = s.DB.AddressUnreachable(ctx, in.Body.Email); err != nil {
		return nil, s.databaseDown(ctx, "reading why an address must not be written to", err)
	}
	return &reachOutput{Reach{Unreachable: kind != "", Kind: string(kind), Cases: len(cases)}}, nil
}

func (s *server) restore(ctx context.Context, in *restoreInput) (*reachOutput, error) {
	if !register.ValidEmail(in.Body.Email) {
		return nil, fieldProblem("body.email", wantEmail)
	}
	cases, did, err := s.DB.SetReachable(ctx, in.Body.Email)
	if err != nil {
		return nil, s.databaseDown(ctx, "noting an address that may be written to again", err)
	}
	if did {
		s.contactsChanged(ctx, cases, "A contact may be written to again.")
	}
	return &reachOutput{Reach{Cases: len(cases)}}, nil
}

func (s *server) forgetContact(ctx context.Context, in *forgetInput) (*forgottenOutput, error) {
	if !register.ValidEmail(in.Body.Email) {
		return nil, fieldProblem("body.email", wantEmail)
	}
	f, err := s.DB.ForgetContact(ctx, in.Body.Email, in.Body.AlsoOptOut)
	// Also where it broke off: those of whom this is said are forgotten.
	s.contactsChanged(ctx, f.Cases, "A contact was forgotten.")
	if err != nil {
		return nil, s.databaseDown(ctx, "forgetting a contact", err)
	}
	return &forgottenOutput{Forgotten{
		Contacts: f.Contacts, Past: f.Past, Cases: len(f.Cases), Unreachable: string(f.Unreachable), SealedImportRows: f.Sealed,
	}}, nil
}

// contactsChanged lets open cases know that others can be written to than
// before. The database knows already, and every step of a case asks it: so
// nothing here may fail the call, and the caller may go away.
func (s *server) contactsChanged(ctx context.Context, cases []db.CaseContact, reason string) {
	const atOnce = 8
	if len(cases) == 0 {
		return
	}
	tell, cancel := context.WithTimeout(context.WithoutCancel(ctx), temporalTimeout)
	defer cancel()
	waiting := make(chan db.CaseContact)
	var all sync.WaitGroup
	var mu sync.Mutex
	var untold int
	var failure error
	for range min(atOnce, len(cases)) {
		all.Go(func() {
			for c := range waiting {
				if err := s.Starter.ContactsChanged(tell, c.ConnectionID, reauth.ContactsChanged{Reason: reason}); err != nil {
					mu.Lock()
					untold, failure = untold+1, err
					mu.Unlock()
				}
			}
		})
	}
	for _, c := range cases {
		waiting <- c
	}
	close(waiting)
	all.Wait()
	if failure != nil {
		s.Logger.LogAttrs(ctx, slog.LevelError, "open cases were not told that their contacts changed; their next steps find it",
			slog.Int("cases", untold), slog.String("error", failure.Error()), slog.String("request_id", infoOf(ctx).id))
	}
}
