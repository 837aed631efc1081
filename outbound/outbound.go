// Package outbound keeps what we send from going where it must not. The
// addresses of the backend's webhook, of the chat and of the mail server are
// settings, and names in them are what some DNS server says they are at the
// moment: one that leads into the private network, or to the machine's own
// metadata service, is refused after it was looked up, at the moment of dialling.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// ErrRefused: the address is one that nothing is sent to.
var ErrRefused = errors.New("nothing is sent to this address")

// Guard says which addresses may be spoken to: public ones, and the networks
// that it allows. Its zero value allows public ones alone.
type Guard struct{ allowed []netip.Prefix }

// The words that stand for several networks in a setting.
const (
	Loopback = "loopback"
	Private  = "private"
)

var (
	loopback = prefixes("127.0.0.0/8", "::1/128")
	private  = append(prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"), loopback...)
	// special are the networks of which netip does not say that they are not
	// public, as the IANA's registries of special-purpose addresses have them.
	special = prefixes(
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
	)
	// translated are the networks whose addresses hold one of IPv4, from which
	// byte on, to which a gateway passes on what is sent to them.
	translated = map[netip.Prefix]int{
		netip.MustParsePrefix("64:ff9b::/96"): 12,
		netip.MustParsePrefix("2002::/16"):    2,
	}
)

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

// Parse reads the networks that are allowed besides the public ones: CIDR
// prefixes, addresses, and the words loopback and private, with commas between
// them.
func Parse(setting string) (Guard, error) {
	var g Guard
	for item := range strings.SplitSeq(setting, ",") {
		switch item = strings.TrimSpace(item); item {
		case "":
		case Loopback:
			g.allowed = append(g.allowed, loopback...)
		case Private:
			g.allowed = append(g.allowed, private...)
		default:
			network, err := netip.ParsePrefix(item)
			if err != nil {
				address, addressErr := netip.ParseAddr(item)
				if addressErr != nil || address.Zone() != "" {
					return Guard{}, fmt.Errorf("%q is neither a network, as 10.0.0.0/8, nor an address, nor %s or %s", item, Loopback, Private)
				}
				network = netip.PrefixFrom(address, address.BitLen())
			}
			g.allowed = append(g.allowed, network.Masked())
		}
	}
	return g, nil
}

// Check says why nothing may be sent to an address, if so. The error matches
// ErrRefused.
func (g Guard) Check(address netip.Addr) error {
	address = address.Unmap().WithZone("")
	for _, network := range g.allowed {
		if network.Contains(address) {
			return nil
		}
	}
	for network, at := range translated {
		if network.Contains(address) {
			inner := netip.AddrFrom4([4]byte(address.AsSlice()[at : at+4]))
			if g.Check(inner) != nil {
				return refused(address)
			}
			return nil
		}
	}
	public := address.IsGlobalUnicast() && !address.IsPrivate()
	for _, network := range special {
		public = public && !network.Contains(address)
	}
	if !public {
		return refused(address)
	}
	return nil
}

func refused(address netip.Addr) error {
	return fmt.Errorf("%w: %s is not a public one (REAUTH_OUTBOUND_ALLOW names the networks that are allowed all the same)", ErrRefused, address)
}

// CheckHost looks a host up, for those who want to hear of a wrong setting
// before anything is sent. A host that cannot be looked up just now is no
// error: that is for the one who sends.
func (g Guard) CheckHost(ctx context.Context, host string) error {
	if address, err := netip.ParseAddr(host); err == nil {
		return g.Check(address)
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for _, address := range addresses {
		if err := g.Check(address); err != nil {
			return err
		}
	}
	return nil
}

// Dialer returns a dialer that refuses an address after its name was looked
// up, so that a name which leads elsewhere the second time gains nothing.
func (g Guard) Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:   timeout,
		KeepAlive: 30 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: it is not an IP address", ErrRefused)
			}
			return g.Check(at.Addr())
		},
	}
}

// Transport returns an HTTP transport that dials through the guard, and knows
// TLS 1.2 as its oldest. A proxy that the environment names is dialled through the guard
// too; where it leads to is then the proxy's to refuse.
func (g Guard) Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = g.Dialer(15 * time.Second).DialContext
	return t
}

// NoRedirects is for http.Client.CheckRedirect: what is sent is for the address
// in the setting and nobody else.
func NoRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
