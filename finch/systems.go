package finch

import "strings"

// systemNames are names that SystemName would not spell as their owners do.
var systemNames = map[string]string{
	"adp_run": "ADP Run", "adp_workforce_now": "ADP Workforce Now", "bamboo_hr": "BambooHR", "bamboo_hr_api": "BambooHR",
	"hibob": "HiBob", "humaans": "Humaans", "insperity": "Insperity", "paychex_flex": "Paychex Flex", "paycor": "Paycor",
	"payroll_relief": "PayrollRelief", "quickbooks": "QuickBooks", "quickbooks_online": "QuickBooks Online", "sage_hr": "Sage HR",
	"trinet": "TriNet", "ukg_pro": "UKG Pro", "ukg_ready": "UKG Ready", "zenefits": "TriNet Zenefits",
}

// SystemName writes a provider_id as people know the system: "Gusto" for
// "gusto". The names proper are GET /providers' display_name.
func SystemName(providerID string) string {
	if name := systemNames[providerID]; name != "" {
		return name
	}
	words := strings.FieldsFunc(providerID, func(r rune) bool { return r == '_' || r == '-' })
	for i, word := range words {
		words[i] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, " ")
}
