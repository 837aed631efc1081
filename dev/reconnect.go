package dev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// linkIn finds the customer's page in a mail.
func (e *Environment) linkIn(m mail) string {
	at := slices.IndexFunc(m.Links, func(link string) bool { return strings.HasPrefix(link, e.publicURL()+"/r/") })
	if at < 0 {
		return ""
	}
	return m.Links[at]
}

// reconnect does what the customer does with the link of a mail: opens it,
// presses the button, authorizes in the simulated Connect and waits for the
// page to say that it is fixed. It tells of each step through did.
func (e *Environment) reconnect(ctx context.Context, link string, did func(format string, args ...any)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errTooSlow)
	defer cancel()
	if link == "" {
		return errors.New("the mail holds no link to the customer's page")
	}
	person, err := newBrowser()
	if err != nil {
		return err
	}
	shown, err := person.open(ctx, link)
	if err != nil {
		return fmt.Errorf("opening the mail's link: %w", err)
	}
	did("its link opens a page: %q", shown.title)

	shown, err = person.press(ctx, shown, "continue")
	if err != nil {
		return fmt.Errorf("pressing the page's button: %w", err)
	}
	if !strings.HasPrefix(shown.url.String(), e.ready.FinchURL) {
		return fmt.Errorf("the button did not lead to Connect, but to the page %q", shown.title)
	}
	did("its button leads to Connect: %q", shown.title)

	shown, err = person.press(ctx, shown, "authorize")
	if err != nil {
		return fmt.Errorf("completing Connect: %w", err)
	}
	did("Connect is completed; the redirect comes back with a code: %q", shown.title)

	err = poll(ctx, func() (bool, error) {
		if shown.tone != "wait" {
			return true, nil
		}
		shown, err = person.open(ctx, shown.url.String())
		return false, err
	})
	if err != nil {
		return fmt.Errorf("waiting for the page to say that it is fixed: %w", err)
	}
	if shown.tone != "good" {
		return fmt.Errorf("the page after Connect says %q", shown.title)
	}
	did("the code is exchanged, the token verified and stored; the page says %q", shown.title)
	return nil
}
