package outbound_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/outbound"
)

func TestWhatIsPublic(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8"} {
		assert.NoError(t, outbound.Guard{}.Check(netip.MustParseAddr(address)), address)
	}
	for _, address := range []string{
		"127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
		"192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::7f00:1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "100::1",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1",
	} {
		assert.ErrorIs(t, outbound.Guard{}.Check(netip.MustParseAddr(address)), outbound.ErrRefused, address)
	}
}

func TestWhatIsAllowed(t *testing.T) {
	t.Parallel()
	guard, err := outbound.Parse(" 10.20.0.0/16, loopback ,192.168.7.7,fd00::/8 ")
	require.NoError(t, err)
	for _, address := range []string{"10.20.3.4", "127.0.0.1", "::1", "192.168.7.7", "fd00::9", "::ffff:10.20.0.1", "64:ff9b::a14:1"} {
		assert.NoError(t, guard.Check(netip.MustParseAddr(address)), address)
	}
	for _, address := range []string{"10.21.0.1", "192.168.7.8", "169.254.169.254", "fc00::1"} {
		assert.ErrorIs(t, guard.Check(netip.MustParseAddr(address)), outbound.ErrRefused, address)
	}
	guard, err = outbound.Parse("private")
	require.NoError(t, err)
	assert.NoError(t, guard.Check(netip.MustParseAddr("172.20.1.1")))
	assert.Error(t, guard.Check(netip.MustParseAddr("169.254.169.254")), "the metadata service of a machine is never among them")

	for _, setting := range []string{"10.0.0.0/99", "everything", "example.com", "fe80::1%eth0"} {
		_, err := outbound.Parse(setting)
		assert.ErrorContains(t, err, "10.0.0.0/8", setting)
	}
}

// A name is judged by what it leads to, also where it is looked up anew.
func TestDialling(t *testing.T) {
	t.Parallel()
	var reached int
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	defer server.Close()
	port := must(url.Parse(server.URL)).Port()
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		client := &http.Client{Transport: outbound.Guard{}.Transport()}
		_, err := client.Get("http://" + host + ":" + port)
		require.ErrorIs(t, err, outbound.ErrRefused, host)
	}
	assert.Zero(t, reached)
	assert.ErrorIs(t, outbound.Guard{}.CheckHost(t.Context(), "localhost"), outbound.ErrRefused)
	assert.ErrorIs(t, outbound.Guard{}.CheckHost(t.Context(), "169.254.169.254"), outbound.ErrRefused)
	assert.NoError(t, outbound.Guard{}.CheckHost(t.Context(), "no-such-host.invalid"), "that is for the one who sends")

	guard, err := outbound.Parse(outbound.Loopback)
	require.NoError(t, err)
	client := &http.Client{Transport: guard.Transport(), CheckRedirect: outbound.NoRedirects}
	response, err := client.Get("http://localhost:" + port)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, 1, reached)
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	guard, err := outbound.Parse(outbound.Loopback)
	require.NoError(t, err)
	client := &http.Client{Transport: guard.Transport(), CheckRedirect: outbound.NoRedirects}
	response, err := client.Post(server.URL+"/here", "text/plain", http.NoBody)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, http.StatusTemporaryRedirect, response.StatusCode)
	assert.Equal(t, []string{"/here"}, asked)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
