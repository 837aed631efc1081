package notify_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/inbox"
)

// answered lets a server answer one step of a conversation, and returns what
// Send makes of it.
func answered(t *testing.T, m notify.Mail, step, answer string) (notify.Delivery, error) {
	t.Helper()
	lines := []string{"220 hi\r\n", "250 hi\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"}
	before, ok := map[string]int{"connect": 0, "MAIL FROM": 2, "RCPT TO": 3, "DATA": 4, "message": 5}[step]
	require.True(t, ok, step)
	return newSMTP(t, script(t, append(lines[:before:before], strings.ReplaceAll(answer, "\n", "\r\n")+"\r\n")...)).Send(t.Context(), m)
}

// What servers of the world answer to RCPT TO, where {to} is the
// address.
func TestBounced(t *testing.T) {
	const bounce, notBounce = true, false
	for _, c := range []struct {
		answer string
		want   bool
	}{
		// There is no such mailbox.
		{"550 5.1.1 <{to}>: Recipient address rejected: User unknown in virtual mailbox table", bounce}, // Postfix
		{"550 5.1.1 <{to}>: Recipient address rejected: User unknown in relay recipient table", bounce},
		{"550 <{to}>: User unknown in relay recipient table", bounce},
		{"550 5.1.1 <{to}>: Recipient address rejected: undeliverable address: host mx[192.0.2.7] said: 550 No such user", bounce},
		{"550-5.1.1 The email account that you tried to reach does not exist. Please try\n550-5.1.1 double-checking the recipient's email address for typos or\n550-5.1.1 unnecessary spaces. For more information, go to\n550 5.1.1  https://support.google.com/mail/?p=NoSuchUser 4fb4d7f45d1cf-sender - gsmtp", bounce},
		{"550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient {to} not found by SMTP address lookup", bounce}, // Exchange
		{"550 5.4.1 Recipient address rejected: Access denied. AS(201806281) [DB5EUR01FT005.eop-EUR01.prod.protection.outlook.com]", bounce},
		{"550 5.4.1 [{to}]: All recipient addresses rejected : Access denied [AM6EUR05FT041.eop-eur05.prod.protection.outlook.com]", bounce},
		{"550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", bounce}, // outlook.com
		{"550 5.1.1 {to}: Email address could not be found, or was misspelled (G8)", bounce}, // Zoho and others
		{"552 1 Requested mail action aborted, mailbox not found", bounce},                   // Yahoo
		{"554 delivery error: dd This user doesn't have a yahoo.com account ({to}) [0]", bounce},
		{"550 5.7.1 No such user! 1660000000-k8NwX1", bounce},                                                          // Yandex
		{"550 Message was not accepted -- invalid mailbox. Local mailbox {to} is unavailable: user not found", bounce}, // mail.ru
		{"550 Mailbox not found. http://service.mail.qq.com/cgi-bin/help?id=20022", bounce},
		{"550 User not found: {to}", bounce},
		{"550 User suspended", bounce},
		{"511 sorry, no mailbox here by that name (#5.1.1 - chkuser)", bounce}, // qmail
		{"550 sorry, no mailbox here by that name. I'm not going to try again; this message has been in the queue too long.", bounce},
		{"550 No Such User Here", bounce},            // Exim
		{"550 Unrouteable address", bounce},          // Exim
		{"550 #5.1.0 Address rejected.", bounce},     // IronPort
		{"550 5.0.0 <{to}>... User unknown", bounce}, // sendmail
		{"553 5.3.0 <{to}>... No such user here", bounce},
		{"550 Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#550 [x]", bounce},
		{"550 5.2.1 The email account that you tried to reach is inactive.", bounce},
		{"550 5.2.1 <{to}>: Mailbox disabled, not accepting messages", bounce},
		{"550 5.1.6 Recipient no longer on server", bounce},
		{"551 User not local; please try <forward@elsewhere.example>", bounce},
		{"551 5.1.6 Mailbox has moved", bounce},
		{"550 Requested action not taken: mailbox unavailable", bounce},
		{"550 ", bounce},
		{"550 <{to}>", bounce},
		{"550 5.1.1", bounce},
		// There cannot be such an address, or such a domain.
		{"501 5.1.3 Bad recipient address syntax", bounce},
		{"553 5.1.3 The recipient address <{to}> is not a valid RFC 5321 address.", bounce},
		{"553 Requested action not taken: mailbox name not allowed", bounce},
		{"550 5.1.2 <{to}>: Recipient address rejected: Domain not found", bounce},
		{"553-5.1.2 We weren't able to find the recipient domain. Please check for any\n553 5.1.2 spelling errors", bounce},
		{"550 5.4.4 Unable to route: no mail hosts for domain", bounce},
		// The domain takes no mail.
		{"556 5.1.10 Recipient address has null MX", bounce},
		{"556 Domain does not accept mail", bounce},
		{"521 5.3.2 Host does not accept mail", bounce},
		{"521 Server does not accept mail", bounce},
		// Words of the address are not the server's.
		{"550 <policy@relay.example>: Recipient address rejected", bounce},

		// We may not send through this server.
		{"530 5.7.0 Must issue a STARTTLS command first", notBounce},
		{"530 Authentication required", notBounce},
		{"535 5.7.8 Error: authentication failed", notBounce},
		{"550 5.7.1 Unable to relay", notBounce},
		{"550 5.7.1 <{to}>... Relaying denied", notBounce},
		{"554 5.7.1 <{to}>: Relay access denied", notBounce},
		{"554 <{to}>: Relay access denied", notBounce},
		{"550 relay not permitted", notBounce},
		{"550-Please turn on SMTP Authentication in your mail client.\n550 mx.example is not permitted to relay through this server without authentication.", notBounce},
		{"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", notBounce},
		{"551 we do not relay", notBounce},
		{"513 Relaying denied.", notBounce},
		{"550 Unauthenticated senders not allowed", notBounce},
		// The server wants nothing of ours.
		{"550 5.7.1 Service unavailable, Client host [192.0.2.7] blocked using Spamhaus. To request removal from this list see https://www.spamhaus.org/query/ip/192.0.2.7", notBounce},
		{"554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org", notBounce},
		{"550 5.7.606 Access denied, banned sending IP [192.0.2.7]", notBounce},
		{"550 192.0.2.7 found in zen.spamhaus.org", notBounce},
		{"550 Rejected: 192.0.2.7 listed at bl.spamcop.net", notBounce},
		{"550 5.3.0 Mail from 192.0.2.7 refused", notBounce},
		{"550 Administrative prohibition", notBounce},
		{"550 Administrative prohibition - envelope blocked - https://community.mimecast.com/docs/DOC-1369#550", notBounce},
		{"550 Local CT IP Reputation Policy - https://community.mimecast.com", notBounce},
		{"550 csi.mimecast.org Poor Reputation Sender.", notBounce},
		{"550 Rejected due to local policy", notBounce},
		{"550 Message rejected", notBounce},
		{"550 Mailbox unavailable or access denied [192.0.2.7]", notBounce},
		{"550 Ip frequency limited", notBounce},
		{"554 5.7.1 <{to}>: Recipient address rejected: Access denied", notBounce},
		{"554 Service unavailable", notBounce},
		{"554 Transaction failed", notBounce},
		{"521 5.7.1 Blocked by policy", notBounce},
		{"556 Blocked by policy", notBounce},
		{"550 5.7.509 Access denied, sending domain does not pass DMARC verification", notBounce},
		{"550 5.7.27 Sender address has null MX", notBounce},
		{"550 5.7.0 Local Policy Violation", notBounce},
		{"550 5.7.0 Nothing of yours", notBounce},
		{"550 5.7.1 Not today", notBounce},
		{"550 5.7.1 The user is unknown to be tired of your spam: user unknown", notBounce},
		// It does not like from whom it is.
		{"550-Verification failed for <connections@ledgerly.example>\n550-No Such User Here\n550 Sender verify failed", notBounce},
		{"550 5.1.8 <connections@ledgerly.example>: Sender address rejected: Domain not found", notBounce},
		{"553 5.1.7 The sender address is not valid", notBounce},
		{"550 5.1.0 Address rejected: unknown sender", notBounce},
		{"450 4.1.8 Sender address rejected", notBounce},
		// The mailbox is there, but full, or too busy.
		{"552 5.2.2 <{to}>: user is over quota", notBounce},
		{"550 5.2.2 Mailbox full", notBounce},
		{"550 Mailbox is full", notBounce},
		{"552 Requested mail action aborted: exceeded storage allocation", notBounce},
		{"552 5.3.4 Message size exceeds fixed limit", notBounce},
		{"550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered.", notBounce},
		{"550 5.4.5 Daily sending quota exceeded", notBounce},
		{"550 5.4.6 Routing loop detected", notBounce},
		{"550 5.4.1 No answer; blocked", notBounce},
		{"550 5.3.0 Greylisted, try again later", notBounce},
		// We do not speak its language.
		{"500 5.5.2 Syntax error", notBounce},
		{"501 Syntax error in parameters or arguments", notBounce},
		{"503 5.5.1 Error: need MAIL command", notBounce},
		{"550 5.5.1 Invalid command", notBounce},
		{"555 5.5.2 Syntax error", notBounce},
		{"553 5.6.7 Non-ASCII addresses not permitted", notBounce},
		{"550 5.6.0 Nothing of that kind", notBounce},
		{"541 5.4.1 Mail rejected by destination domain", notBounce},
		// It may be otherwise another day.
		{"450 4.1.1 <{to}>: Recipient address rejected: User unknown", notBounce},
		{"451 5.1.1 User unknown", notBounce},
		{"550 4.1.1 User unknown", notBounce},
		{"550 4.2.0 User unknown", notBounce},
		{"421 5.1.1 User unknown", notBounce},
		// What is not a status code.
		{"554 Exim 5.1.1 is tired", notBounce},
		{"554 5.1.1.7 is not welcome", notBounce},
	} {
		t.Run(c.answer, func(t *testing.T) {
			t.Parallel()
			m := newMail(t)
			to := strings.NewReplacer("{to}", m.To)
			if strings.Contains(c.answer, "relay.example") {
				m.To = "policy@relay.example"
			}
			delivery, err := answered(t, m, "RCPT TO", to.Replace(c.answer))
			require.ErrorContains(t, err, "RCPT TO: answered "+c.answer[:3])
			assert.Equal(t, c.want, notify.Bounced(err), "%v", err)
			if c.want {
				assert.Equal(t, notify.Refused, delivery)
			}
			assertDiscreet(t, m, err)
			assert.Equal(t, c.want, notify.Bounced(fmt.Errorf("write to a contact: %w", err)), "wrapped")
		})
	}
}

// Where the server was not asked about the address alone, only a status code
// says that it is about the address.
func TestBouncedElsewhere(t *testing.T) {
	for _, c := range []struct {
		step, answer string
		want         bool
	}{
		{"connect", "554 5.1.1 User unknown", false},
		{"connect", "521 Server does not accept mail", false},
		{"MAIL FROM", "550 5.1.1 User unknown", false},
		{"MAIL FROM", "553 5.1.10 null MX", false},
		{"MAIL FROM", "550 No such user", false},
		{"MAIL FROM", "550 ", false},
		{"DATA", "554 5.5.1 Error: no valid recipients", false},
		{"DATA", "550 No such user", false},
		{"DATA", "550 5.1.1 User unknown", true},
		{"message", "554 Transaction failed", false},
		{"message", "550 ", false},
		{"message", "550 No such user", false},
		{"message", "554 5.7.1 Message rejected as spam by content scanning", false},
		{"message", "550 5.7.26 Unauthenticated email from this domain is not accepted", false},
		{"message", "552 5.3.4 Message too big", false},
		{"message", "554 5.6.0 Message contains invalid header", false},
		{"message", "550 5.2.1 Mailbox disabled", false},
		{"message", "550 5.1.1 User unknown", true},
		{"message", "556 5.1.10 Recipient address has null MX", true},
	} {
		t.Run(c.step+" "+c.answer, func(t *testing.T) {
			t.Parallel()
			m := newMail(t)
			_, err := answered(t, m, c.step, c.answer)
			require.ErrorContains(t, err, c.step+": answered "+c.answer[:3])
			assert.Equal(t, c.want, notify.Bounced(err), "%v", err)
		})
	}
	for _, err := range []error{nil, errors.New("550 5.1.1 User unknown"), context.Canceled} {
		assert.False(t, notify.Bounced(err))
	}
}

func TestAnswerError(t *testing.T) {
	m := newMail(t)
	_, err := answered(t, m, "RCPT TO", "550-5.1.1 <"+m.To+"> is gone,\n550 5.1.1 says ann.smith")
	var answer *notify.AnswerError
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, "RCPT TO", answer.Step)
	assert.Equal(t, 550, answer.Code)
	assert.Equal(t, "5.1.1", answer.Enhanced)
	assert.Equal(t, "mail server "+answer.Server+": RCPT TO: answered 550: 5.1.1 … is gone, 5.1.1 says …", err.Error())
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		assertDiscreet(t, m, fmt.Errorf(format, *answer))
	}

	// A server that cannot take the address says nothing about it.
	m.To = "jürgen@bücher.example"
	_, err = newSMTP(t, script(t, "220 hi\r\n", "250 hi\r\n")).Send(t.Context(), m)
	require.ErrorAs(t, err, &answer)
	assert.False(t, notify.Bounced(err))

	// Nor does one that cannot be reached.
	server := newInbox(t, inbox.Options{})
	require.NoError(t, server.SetKnobs(inbox.Knobs{Fault: inbox.FaultDrop, At: inbox.AtRcpt}))
	_, err = newSMTP(t, server.SMTPURL()).Send(t.Context(), newMail(t))
	require.Error(t, err)
	assert.NotErrorAs(t, err, &answer)
	assert.False(t, notify.Bounced(err))
}
