package cli

import (
	"context"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/outbound"
	"github.com/finch-reauth/reauth/worker"
)

// outboundSettings say where mails, webhooks and chat messages may go.
type outboundSettings struct {
	OutboundAllow string `env:"REAUTH_OUTBOUND_ALLOW" placeholder:"NETWORK,..." help:"Networks that the mail server, the webhook's receiver and the chat may be in besides the public ones: CIDR prefixes, addresses, loopback, private."`
}

func checkOutbound(value string) error {
	_, err := outbound.Parse(value)
	return err
}

func (s outboundSettings) guard() outbound.Guard {
	guard, _ := outbound.Parse(s.OutboundAllow) // checked before
	return guard
}

// checkTargets refuses to start where a setting leads to an address that
// nothing would be sent to: better now than with the first mail.
func (c *workerCommand) checkTargets(ctx context.Context, further []worker.Receiver) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	guard := c.guard()
	type target struct{ name, address string }
	targets := []target{{"SMTP_URL", c.SMTPURL}, {"REAUTH_WEBHOOK_URL", c.WebhookURL}, {"REAUTH_CHAT", c.Chat}}
	for _, r := range further {
		targets = append(targets, target{"REAUTH_APPLICATIONS", r.URL})
	}
	for _, target := range targets {
		u, err := url.Parse(target.address)
		if err != nil || u.Hostname() == "" || strings.HasPrefix(target.address, "slack:") {
			continue
		}
		if err := guard.CheckHost(ctx, u.Hostname()); err != nil {
			return settingError{target.name, "leads to an address that is not a public one", "a public address, or REAUTH_OUTBOUND_ALLOW to name the network that it is in", exampleOf(u.Hostname())}
		}
	}
	return nil
}

func exampleOf(host string) string {
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return "… with REAUTH_OUTBOUND_ALLOW=" + outbound.Loopback
	}
	return "… with REAUTH_OUTBOUND_ALLOW=10.0.0.0/8"
}
