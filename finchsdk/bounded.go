package finchsdk

import (
	"io"
	"net/http"
)

// maxAnswer bounds what is read of an answer: the official client reads all of
// it. What is cut off is no JSON any more, and so no answer.
const maxAnswer = 1 << 20

// bounded is a transport whose answers end after maxAnswer bytes.
type bounded struct{ base http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.base.RoundTrip(r)
	if err == nil {
		response.Body = &boundedBody{io.LimitReader(response.Body, maxAnswer), response.Body}
	}
	return response, err
}

type boundedBody struct {
	io.Reader
	io.Closer
}
