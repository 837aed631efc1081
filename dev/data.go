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

	"github.com/finch-reauth/reauth/secrets"
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
