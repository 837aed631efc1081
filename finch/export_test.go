package finch

// ParseError is parseError, for the fuzz test.
var ParseError = parseError
