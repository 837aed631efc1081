// Package clock lets time pass faster for cases than it does for us, so that on
// a developer's machine a campaign of weeks is over in minutes. No part of it
// is at work in production.
package clock

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The speeds that a Fast clock may have. Beyond the fastest, sending a mail
// takes longer than the wait for the next one.
const (
	MinSpeed = 2
	MaxSpeed = 10_000
)

// Fast runs Speed times as fast as the real clock, with which it agreed at
// Epoch. Both are constants of all the cases that live by it: with them, and
// the real times that a workflow's history holds, replaying a workflow comes to
// the same fast times again.
type Fast struct {
	Speed int
	Epoch time.Time
}

// Parse reads what String writes: the speed and the epoch, as in
// "4000@2026-11-21T02:00:00Z".
func Parse(text string) (Fast, error) {
	number, moment, _ := strings.Cut(text, "@")
	speed, err := strconv.Atoi(number)
	if err != nil || CheckSpeed(speed) != nil {
		return Fast{}, fmt.Errorf("the speed must be a whole number from %d to %d, with @ and the epoch behind it", MinSpeed, MaxSpeed)
	}
	epoch, err := time.Parse(time.RFC3339Nano, moment)
	if err != nil {
		return Fast{}, errors.New("the epoch must be a time as 2026-11-21T02:00:00Z")
	}
	return Fast{Speed: speed, Epoch: epoch.UTC()}, nil
}

// CheckSpeed returns an error that says what is allowed, unless the speed is.
func CheckSpeed(speed int) error {
	if speed < MinSpeed || speed > MaxSpeed {
		return fmt.Errorf("a speed must be from %d to %d", MinSpeed, MaxSpeed)
	}
	return nil
}

func (f Fast) String() string {
	return strconv.Itoa(f.Speed) + "@" + f.Epoch.UTC().Format(time.RFC3339Nano)
}

// Now is what the clock shows now, in UTC.
func (f Fast) Now() time.Time { return f.At(time.Now()) }

// At is what the clock shows at a real time, in UTC.
func (f Fast) At(real time.Time) time.Time {
	// Years of fast time do not fit into a time.Duration: whole seconds and
	// the rest are multiplied apart.
	seconds, rest := real.Unix()-f.Epoch.Unix(), int64(real.Nanosecond()-f.Epoch.Nanosecond())
	speed := int64(f.Speed)
	return time.Unix(f.Epoch.Unix()+seconds*speed, int64(f.Epoch.Nanosecond())+rest*speed).UTC()
}

// Real is how long a span of fast time takes. It is rounded up, so that whoever
// waits for a moment does not wake before it, to find that there is nothing
// left to wait for and still nothing due.
func (f Fast) Real(span time.Duration) time.Duration {
	speed := time.Duration(f.Speed)
	real := span / speed
	if span%speed > 0 {
		real++
	}
	return real
}
