package campaign_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify/campaign"
	"github.com/finch-reauth/reauth/reauth"
)

func TestChoose(t *testing.T) {
	const plain = `
campaigns:
  quiet: {steps: [{after: 1d}]}
  loud: {steps: [{after: 1h}]}
  sandbox: {steps: [{after: 1m}]}
`
	const chosen = plain + `
choose:
  - {application: sandbox, provider: atto, campaign: quiet}
  - {application: sandbox, campaign: sandbox}
  - {provider: atto, campaign: loud}
  - {provider: finch, application: payroll, campaign: default}
  - {provider: finch, application: default, campaign: quiet}
`
	const own = `
campaigns:
  default: {steps: [{after: 3d}]}
`
	for name, tc := range map[string]struct {
		file               string // none: a nil book
		named, application string
		provider           reauth.Provider
		want               string
	}{
		"no book":                                {"", "quiet", "sandbox", "finch", "default"},
		"a book without choices":                 {plain, "", "sandbox", "finch", "default"},
		"the connection's own":                   {plain, "loud", "sandbox", "finch", "loud"},
		"the connection's own before a choice":   {chosen, "loud", "sandbox", "finch", "loud"},
		"the connection's own is the default":    {chosen, "default", "sandbox", "finch", "default"},
		"the connection's own is not in it":      {chosen, "gone", "sandbox", "finch", "sandbox"},
		"both fit":                               {chosen, "", "sandbox", "atto", "quiet"},
		"the application fits":                   {chosen, "", "sandbox", "finch", "sandbox"},
		"the provider fits":                      {chosen, "", "production", "atto", "loud"},
		"a choice of the default":                {chosen, "", "payroll", "finch", "default"},
		"none fits":                              {chosen, "", "production", "finch", "default"},
		"nothing is said of the connection":      {chosen, "", "", "", "quiet"},
		"a name is no wildcard for applications": {chosen, "", "Sandbox", "finch", "default"},
	} {
		t.Run(name, func(t *testing.T) {
			var book *campaign.Book
			if tc.file != "" {
				var err error
				book, err = campaign.Parse("campaigns.yaml", []byte(tc.file))
				require.NoError(t, err)
			}
			got := book.Choose(tc.named, tc.application, tc.provider)
			assert.Equal(t, tc.want, got.Name)
			want, ok := book.Named(tc.want)
			assert.True(t, ok)
			assert.Equal(t, want, got)
		})
	}

	book, err := campaign.Parse("campaigns.yaml", []byte(own))
	require.NoError(t, err)
	assert.Equal(t, []string{"after-3d primary mail"}, told(book.Choose("", "", "").Steps), "the file's default, not the built-in one")
}

func TestNamed(t *testing.T) {
	var none *campaign.Book
	parsed, err := campaign.Parse("campaigns.yaml", []byte("campaigns: {quiet: {steps: [{after: 1d}]}, Early: {steps: [{after: 1h}]}}"))
	require.NoError(t, err)
	reminders := campaign.FromReminders([]string{"1h"})
	for name, tc := range map[string]struct {
		book  *campaign.Book
		names []string
		first []string // the default's steps
	}{
		"nil":             {none, []string{"default"}, told(campaign.Default().Steps)},
		"an empty one":    {&campaign.Book{}, []string{"default"}, told(campaign.Default().Steps)},
		"of one":          {campaign.BookOf(reminders), []string{"default"}, told(reminders.Steps)},
		"without its own": {parsed, []string{"Early", "default", "quiet"}, told(campaign.Default().Steps)},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tc.names, tc.book.Names())
			for _, name := range tc.names {
				c, ok := tc.book.Named(name)
				require.True(t, ok, name)
				assert.NoError(t, c.Check())
			}
			c, _ := tc.book.Named("default")
			assert.Equal(t, tc.first, told(c.Steps))
			for _, name := range []string{"", "missing", "reminders"} {
				c, ok := tc.book.Named(name)
				assert.False(t, ok, name)
				assert.Zero(t, c)
			}
		})
	}
}

// Many cases read one book at once, and each may do with its campaign what it likes.
func TestABookDoesNotChange(t *testing.T) {
	given := campaign.Default()
	book := campaign.BookOf(given)
	given.Steps[0].Key, given.Hours.DaysOff[0] = "changed", time.Monday
	for range 2 {
		for _, c := range []campaign.Campaign{book.Choose("", "", ""), book.Choose("default", "", "")} {
			assert.Equal(t, campaign.Default(), c)
			c.Steps[0].Key, c.Hours.DaysOff[0] = "changed", time.Monday
		}
	}
}
