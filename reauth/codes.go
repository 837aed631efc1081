package reauth

import "slices"

// CodeReauth is the provider's code that says that the customer must log in again.
const CodeReauth = "reauthenticate_user"

// SetupCodes are the provider's codes that say that the customer's account must
// be mended in a way that no new login brings: it is not set up, or it lacks a
// permission. A report with one of them opens no Connect session by itself.
func SetupCodes() []string {
	return []string{"account_setup_required", "insufficient_account_permissions", "error_permissions", "error_no_account_setup"}
}

// IsSetupCode reports whether a code is one of SetupCodes.
func IsSetupCode(code string) bool { return slices.Contains(SetupCodes(), code) }
