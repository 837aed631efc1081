package web

import (
	"github.com/danielgtaylor/huma/v2"

	"github.com/finch-reauth/reauth/strictjson"
)

// strictJSON is JSON as the API takes it.
func strictJSON() huma.Format {
	return huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: strictjson.Unmarshal}
}
