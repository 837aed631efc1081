package notify

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// AnswerError is the error of Send where a mail server said no. Its text holds
// no e-mail address and nothing of the mail.
type AnswerError struct {
	Server string // host and port
	// Step is what was answered: "connect", "MAIL FROM", "RCPT TO", "DATA" or
	// "message".
	Step string
	// Code is the reply code (RFC 5321), Enhanced the status code that stood
	// with it, as "5.1.1" (RFC 3463); empty if there was none.
	Code     int
	Enhanced string

	words  string // what is plain words of the answer
	bounce bool
}

// Error names the step, and what was answered.
func (e *AnswerError) Error() string {
	return fmt.Sprintf("mail server %s: %s: answered %d: %s", e.Server, e.Step, e.Code, e.words)
}

// Bounced reports whether an error of Send says that the address cannot be
// delivered to, today or any other day: whoever has it must be reached another
// way. It is false where the server refuses us or this mail (policy, spam,
// content, size, a mailbox that is full), where it may take the mail later, and
// for errors of any other kind.
//
// A server says such a thing in answer to RCPT TO, where it is asked about the
// address alone, with a 5xx reply (RFC 5321, 4.2.1). Where a status code of RFC
// 3463 stands with it, that decides: 5.1.1, 5.1.2, 5.1.3, 5.1.4 and 5.1.6
// (there is no such mailbox or system, or it has moved), 5.1.10 (a domain that
// takes no mail, RFC 7505) and 5.4.4 (no way leads there) are bounces, also if
// the server does not say so before it has the whole message: it has one
// recipient. 5.2.1 (a mailbox that is switched off) is one unless the words are
// about us. Codes that leave open what is wrong (5.0.0, 5.1.0 and the like,
// 5.3.2) are as if there were none, and so is 5.4.1, by which Exchange Online
// tells of recipients that there are not. Every other code is not a bounce:
// 5.6.x and 5.7.x are about the mail and about us.
//
// Without a status code the reply codes that are about a mailbox are bounces:
// 550, 551 and 553 (RFC 5321, 4.2.3), 521 and 556 (RFC 7504) — unless the words
// are of senders, policy, relaying, blocking, spam, sizes or limits. Words that
// tell plainly of an unknown user make a bounce of 552, 554, 511 and of 5.7.1
// too: some large providers answer so.
func Bounced(err error) bool {
	var answer *AnswerError
	return errors.As(err, &answer) && answer.bounce
}

const (
	atRcpt       = "RCPT TO"
	endOfMessage = "message"
)

// bounced is the rule of Bounced. The words are all that the server said.
func bounced(step string, code int, enhanced, words string, m Mail) bool {
	if code/100 != 5 || enhanced != "" && enhanced[0] != '5' {
		return false
	}
	switch enhanced {
	case "5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.4.4":
		return step == atRcpt || step == "DATA" || step == endOfMessage
	}
	if step != atRcpt {
		return false
	}
	words = withoutAddresses(words, m)
	unknown, aboutUs := ofUnknownUser.MatchString(words), ofUs.MatchString(words)
	switch {
	case ofSender.MatchString(words):
		return false
	case enhanced == "5.7.1":
		return unknown && !aboutUs
	case strings.HasPrefix(enhanced, "5.6."), strings.HasPrefix(enhanced, "5.7."):
		return false
	case enhanced == "5.2.1":
		return !aboutUs
	case enhanced == "5.4.1" && ofRecipient.MatchString(words):
		return true
	case enhanced != "" && enhanced != "5.3.2" && enhanced != "5.4.1" && !strings.HasSuffix(enhanced, ".0"):
		return false
	}
	switch code {
	case 521, 550, 551, 553, 556:
		return unknown || !aboutUs
	case 511, 552, 554:
		return unknown
	}
	return false
}

// Status codes stand at the beginning of a line, or where qmail writes them:
// "(#5.1.1)". Elsewhere, what looks like one is a version or part of an IP
// address.
var enhancedCode = regexp.MustCompile(`(?m)^#?([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[\s:;,-]|$)|\(#([245]\.[0-9]{1,3}\.[0-9]{1,3})\b`)

func enhancedIn(text string) string {
	match := enhancedCode.FindStringSubmatch(text)
	if match == nil {
		return ""
	}
	return match[1] + match[2]
}

// What servers say, in lower case, without addresses.
var (
	ofSender = regexp.MustCompile(`\b(senders?|mail from|from address|return-path|helo|ehlo|spf|dkim|dmarc)\b`)
	ofUs     = regexp.MustCompile(`spam|junk|unsolicited|\bbulk\b|virus|malware|phish|\bpolic(y|ies)\b|\brelay|\bblock|black-?list|\blisted\b|bl\b|` +
		`reputation|barracuda|\bden(y|ied)\b|forbidden|prohibit|restrict|permi(tted|ssion)|authenticat|authori[sz]|\bips?\b|client host|` +
		`\breverse\b|\br?dns\b|\bptr\b|\btls\b|\bssl\b|encrypt|message (rejected|refused)|content|attachment|too (large|big|many|long|fast|much)|` +
		`\bsize\b|quota|\bfull\b|storage|limit|\brate\b|throttl|gr[ae]y-?list|temporar|try again|again later|banned|suspicious|abus|complain|\btrust`)
	ofUnknownUser = regexp.MustCompile(`\b(no such|unknown|invalid|non-?existent|bad|not a valid) (local |destination |e-?mail )?(user|recipient|mailbox|account|address|addressee|person|customer)\b|` +
		`\b(user|recipient|mailbox|account|address|addressee|person|customer)( name| address)?( is| was)? (unknown|not (found|known|exist)|invalid|non-?existent|does(n't| not) exist|has moved)\b|` +
		`\bno mailbox\b|\bnot our customer\b|\bno longer (exists|valid|in use|available)\b|\bdoes(n't| not) have an? \S+ account\b|\bmailbox name not allowed\b|\bunrouteable address\b`)
	ofRecipient = regexp.MustCompile(`\brecipient address(es)? rejected\b`)
)

// withoutAddresses returns what a server said in lower case, without the words
// that stand for whom we asked about: "policy@relay.example" must not sound
// like a policy.
func withoutAddresses(text string, m Mail) string {
	local, domain, _ := strings.Cut(strings.ToLower(m.To), "@")
	words := slices.DeleteFunc(strings.Fields(strings.ToLower(text)), func(word string) bool {
		word = strings.Trim(word, `.,;:!?()[]{}<>"'`)
		return strings.Contains(word, "@") || word == local || word == domain || strings.HasSuffix(word, "."+domain)
	})
	return strings.Join(words, " ")
}
