package cli

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/web"
)

// parseRateLimits reads "key=1000/s refused=30/m". What is not given keeps its
// default; "off" takes every limit away.
func parseRateLimits(value string) (limits web.Limits, err error) {
	if value == "off" {
		return web.Limits{Key: web.NoLimit(), Address: web.NoLimit(), Webhooks: web.NoLimit(), Refused: web.NoLimit()}, nil
	}
	for _, field := range strings.Fields(value) {
		name, text, _ := strings.Cut(field, "=")
		to := map[string]*web.Rate{"key": &limits.Key, "address": &limits.Address, "webhooks": &limits.Webhooks, "refused": &limits.Refused}[name]
		switch {
		case to == nil:
			return limits, errors.New("a part of it is unknown")
		case *to != (web.Rate{}):
			return limits, errors.New(name + " is there twice")
		}
		if *to, err = parseRate(text); err != nil {
			return limits, errors.New(name + " must be off, or a whole number from 1 on and /s or /m")
		}
	}
	return limits, nil
}

// parseRate reads "100/s" or "30/m". At once there may be as many as in twenty
// seconds, or in the minute.
func parseRate(text string) (web.Rate, error) {
	if text == "off" {
		return web.NoLimit(), nil
	}
	count, per, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(count)
	switch {
	case err != nil || n < 1 || n > 1_000_000:
		return web.Rate{}, errMalformed
	case per == "s":
		return web.Rate{Count: n, Per: time.Second, Burst: 20 * n}, nil
	case per == "m":
		return web.Rate{Count: n, Per: time.Minute, Burst: n}, nil
	}
	return web.Rate{}, errMalformed
}

func checkRateLimits(value string) error {
	_, err := parseRateLimits(value)
	return err
}
