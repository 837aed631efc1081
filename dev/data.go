package dev

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/worker/clock"
)

const (
	// temporalFile is Temporal's database: where it is, there may be cases.
	temporalFile = "temporal.db"
	// clockFile holds the clock by which the cases live, if not by the real one.
	clockFile = "clock"
	// lastYear is the last in which the clock may be resumed. Dates have years
	// of four digits, and cases look ahead.
	lastYear = 9000
)

// folder is where everything of one `reauth dev` is kept.
type folder struct {
	path string
	lock *os.File
}

// openFolder makes the folder if need be and locks it, so that one process at
// a time works with it. The lock goes with the process.
func openFolder(path string) (*folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding the data folder: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another `reauth dev` works with the data in %s; stop it first, or give this one a folder of its own with --data", path)
		}
		return nil, fmt.Errorf("locking the data folder: %w", err)
	}
	return &folder{path: path, lock: lock}, nil
}

func (f *folder) close() { _ = f.lock.Close() }

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// secretFile returns the content of a private file, which is made the first time.
func (f *folder) secretFile(name string, generate func() (string, error)) (content string, made bool, err error) {
	text, err := os.ReadFile(f.file(name))
	if err == nil {
		return strings.TrimSpace(string(text)), false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("reading %s: %w", name, err)
	}
	content, err = generate()
	if err == nil {
		err = writeFile(f.file(name), []byte(content+"\n"), 0o600)
	}
	if err != nil {
		return "", false, fmt.Errorf("making %s: %w", f.file(name), err)
	}
	return content, true, nil
}

// clock returns the clock by which the cases in the folder live, or nil for the
// real one. The first start chooses it for good, by its speed: the dates that
// cases wait for, and the histories from which Temporal brings them back, make
// sense by no other. A speed of 0 takes what is there.
func (f *folder) clock(speed int) (*clock.Fast, error) {
	const otherwise = "give this one a folder of its own with --data"
	text, err := os.ReadFile(f.file(clockFile))
	switch {
	case err == nil:
		kept, err := clock.Parse(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", f.file(clockFile), err)
		}
		if speed != 0 && speed != kept.Speed {
			return nil, fmt.Errorf("the data in %s was begun with --speed %d, and its cases wait for dates by that clock; leave --speed away to resume there, or %s to begin anew with --speed %d",
				f.path, kept.Speed, otherwise, speed)
		}
		if year := kept.Now().Year(); year > lastYear {
			return nil, fmt.Errorf("by the clock of the data in %s, begun with --speed %d, it is the year %d, which is too late for a date; %s to begin anew", f.path, kept.Speed, year, otherwise)
		}
		return &kept, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading %s: %w", clockFile, err)
	case speed == 0:
		return nil, nil
	}
	if _, err := os.Stat(f.file(temporalFile)); err == nil {
		return nil, fmt.Errorf("the data in %s was begun without --speed, and its cases wait for real dates; leave --speed away to resume there, or %s to begin anew with --speed %d",
			f.path, otherwise, speed)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for cases of an earlier start: %w", err)
	}
	if err := clock.CheckSpeed(speed); err != nil {
		return nil, err
	}
	made := clock.Fast{Speed: speed, Epoch: time.Now().UTC().Truncate(time.Second)}
	if err := writeFile(f.file(clockFile), []byte(made.String()+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("making %s: %w", f.file(clockFile), err)
	}
	return &made, nil
}

// FinchCredentials are what an application has from Finch.
type FinchCredentials struct {
	ClientID      string `json:"client_id"`
	ClientSecret  string `json:"client_secret"`
	WebhookSecret string `json:"webhook_secret"`
}

// simulatedCredentials returns the credentials of the simulated Finch, which
// are made the first time.
func (f *folder) simulatedCredentials() (FinchCredentials, error) {
	var c FinchCredentials
	text, _, err := f.secretFile("finch-credentials.json", func() (string, error) {
		made, err := json.Marshal(FinchCredentials{
			ClientID:      "sandbox-" + random(12),
			ClientSecret:  "finch-secret-sandbox-" + random(24),
			WebhookSecret: base64.StdEncoding.EncodeToString(randomBytes(24)),
		})
		return string(made), err
	})
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, fmt.Errorf("reading the simulated Finch's credentials: %w", err)
	}
	return c, nil
}

func generateAPIKey() (string, error) { return "reauth_dev_" + random(24), nil }

func generateKeyset() (string, error) { return secrets.Generate() }

func random(n int) string { return base64.RawURLEncoding.EncodeToString(randomBytes(n)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// writeFile replaces a file at once: readers see the old content or the new.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	staged, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(staged.Name())
	_, err = staged.Write(content)
	err = errors.Join(err, staged.Chmod(mode), staged.Close())
	if err != nil {
		return err
	}
	return os.Rename(staged.Name(), path)
}
