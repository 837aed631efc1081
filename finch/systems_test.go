package finch_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/finch-reauth/reauth/finch"
)

func TestSystemName(t *testing.T) {
	for id, want := range map[string]string{
		"gusto": "Gusto", "adp_run": "ADP Run", "bamboo_hr": "BambooHR", "some_new-system": "Some New System", "": "",
	} {
		assert.Equal(t, want, finch.SystemName(id), id)
	}
}
