package web

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/db"
)

// What is sealed here is listed with its bounds where all that is sealed is sealed
// anew when keys are rotated; and a row of another connection or generation does
// not open.
func TestWhatIsSealedHereIsSealedAnew(t *testing.T) {
	f := newFixture(t)
	f.api(201, "PUT", "/v1/connections/"+connID, map[string]any{"access_token": "token-Hush-1"}, nil)
	f.temporal.down = true
	f.api(202, "POST", reportURL+"/code", map[string]any{"code": "code-Hush"}, nil)
	for _, column := range db.SealedColumns() {
		out, err := f.db.Reseal(t.Context(), column, db.Resealing{
			Primary: 0, Limit: 100, Seal: func(sealed []byte, bound []string) ([]byte, error) { return f.keys.Reseal(sealed, bound...) },
		})
		require.NoError(t, err)
		require.Empty(t, out.Failed, column.Table)
		if column.Table == "tokens" || column.Table == "held_codes" {
			require.Positive(t, out.Done, column.Table)
		}
	}
	var token TokenView
	f.api(200, "GET", "/v1/connections/"+connID+"/token", nil, &token)
	require.Equal(t, "token-Hush-1", token.AccessToken)
	held, err := f.db.HeldCodes(t.Context(), 10)
	require.NoError(t, err)
	d, err := Forwarder{Keys: f.keys}.open(held[0])
	require.NoError(t, err)
	require.Equal(t, "code-Hush", d.Message.Code)

	// A generation under which it was not adopted, and another connection.
	f.sql(`INSERT INTO connections (connection_id, provider, application, status, created_at, updated_at) VALUES ('thief', 'finch', 'default', 'connected', now(), now())`)
	f.sql(`INSERT INTO tokens (connection_id, generation, state, fingerprint, sealed, minted_at, adopted_at)
SELECT 'thief', 1, 'current', repeat('0', 32), sealed, now(), now() FROM tokens`)
	f.sql(`UPDATE connections SET generation = 1, last_generation = 1 WHERE connection_id = 'thief'`)
	f.problem(500, "GET", "/v1/connections/thief/token", nil)
	f.api(200, "PUT", "/v1/connections/"+connID, map[string]any{"access_token": "token-Hush-2"}, nil)
	f.sql(`UPDATE tokens SET sealed = (SELECT sealed FROM tokens WHERE connection_id = $1 AND generation = 1) WHERE connection_id = $1 AND generation = 2`, connID)
	f.problem(500, "GET", "/v1/connections/"+connID+"/token", nil)
}
