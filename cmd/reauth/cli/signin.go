package cli

import "github.com/finch-reauth/reauth/web"

// signInSettings say how operators sign in to their pages.
type signInSettings struct {
	OIDCIssuer       string `name:"oidc-issuer" env:"REAUTH_OIDC_ISSUER" placeholder:"URL" help:"The identity provider with which operators sign in to their pages."`
	OIDCClientID     string `name:"oidc-client-id" env:"REAUTH_OIDC_CLIENT_ID" placeholder:"ID" help:"Our client ID there."`
	OIDCClientSecret string `name:"oidc-client-secret" env:"REAUTH_OIDC_CLIENT_SECRET" hidden:"" help:"Our client secret there."`
	OIDCAllow        string `name:"oidc-allow" env:"REAUTH_OIDC_ALLOW" placeholder:"WHO,..." help:"Who of its people is an operator: email:…, domain:…, group:…, subject:…."`
	SignInByKey      string `env:"REAUTH_SIGN_IN_BY_KEY" default:"false" placeholder:"BOOL" help:"Let operators sign in with an API key that has the scope operator."`
}

// signIn is how operators sign in; nil where they cannot.
func (s signInSettings) signIn() (*web.SignIn, error) {
	if s.OIDCIssuer == "" {
		if !isTrue(s.SignInByKey) {
			return nil, nil
		}
		return &web.SignIn{ByKey: true}, nil
	}
	for _, needed := range []struct{ name, value string }{
		{"REAUTH_OIDC_CLIENT_ID", s.OIDCClientID}, {"REAUTH_OIDC_CLIENT_SECRET", s.OIDCClientSecret}, {"REAUTH_OIDC_ALLOW", s.OIDCAllow},
	} {
		if needed.value == "" {
			return nil, missing(needed.name)
		}
	}
	return &web.SignIn{
		ByKey:  isTrue(s.SignInByKey),
		OpenID: &web.OpenID{Issuer: s.OIDCIssuer, ClientID: s.OIDCClientID, ClientSecret: s.OIDCClientSecret, Allow: list(s.OIDCAllow)},
	}, nil
}

func checkAllow(value string) error { return web.CheckAllow(list(value)) }
