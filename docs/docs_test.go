// Package docs_test holds the documentation, and what it is built and run with,
// to what they say.
package docs_test

import (
	"encoding/csv"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", path))
	require.NoError(t, err)
	return string(content)
}

var (
	namedTest = regexp.MustCompile("`([a-zA-Z0-9_/]+_test\\.go):((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	testName  = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z][A-Za-z0-9_]*`)
)

// Every threat names a test, and every test that is named exists.
func TestEveryThreatHasItsTest(t *testing.T) {
	page := read(t, "docs/security.md")
	_, threats, found := strings.Cut(page, "\n## Threats\n")
	require.True(t, found)
	threats, _, found = strings.Cut(threats, "\n## What is not stopped\n")
	require.True(t, found)
	rows := 0
	for line := range strings.Lines(threats) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| threat |") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		require.Len(t, cells, 3, line)
		require.Regexp(t, namedTest, cells[2], "a threat without a test: %s", line)
	}
	require.Greater(t, rows, 40)
	for _, test := range namedTest.FindAllStringSubmatch(page, -1) {
		require.Regexp(t, `(?m)^func `+test[2]+`\(`, read(t, test[1]), "%s in %s", test[2], test[1])
	}
	require.Empty(t, testName.FindAllString(namedTest.ReplaceAllString(page, ""), -1), "a test is named without its file")
}

// Each parser of what comes from outside is in the threat model, fuzz test and all.
func TestEveryFuzzTestIsNamed(t *testing.T) {
	page := read(t, "docs/security.md")
	fuzz := regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]+)\(`)
	n := 0
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		for _, found := range fuzz.FindAllStringSubmatch(string(content), -1) {
			n++
			require.Contains(t, page, filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator)))+":"+found[1])
		}
		return err
	}))
	require.GreaterOrEqual(t, n, 16)
}

// Nothing that checks or builds the program is "the latest".
func TestToolsArePinned(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, tool := range []string{"STATICCHECK", "WORKFLOWCHECK", "GOVULNCHECK", "GO_LICENSES"} {
		require.Regexp(t, `(?m)^`+tool+` := \S+@v\d+\.\d+\.\d+$`, makefile)
	}
	for _, path := range []string{"Makefile", ".ci/run", ".ci/fuzz", ".ci/licences", ".ci/vulncheck"} {
		for line := range strings.Lines(read(t, path)) {
			require.NotContains(t, line, "@latest", path)
			require.NotRegexp(t, `go (run|install) [a-z][^ ]*\.[a-z]+/`, line, "%s runs a tool that the Makefile does not pin", path)
		}
	}
	ci := read(t, ".ci/run")
	for _, step := range []string{"lint", "vulncheck", "licences-check", "test", "fuzz"} {
		require.Regexp(t, `(?m)^step \S+ make `+step+`( |$)`, ci)
	}
	for line := range strings.Lines(read(t, "Dockerfile")) {
		if image, ok := strings.CutPrefix(line, "FROM "); ok {
			require.Regexp(t, `^[^ ]+:[a-z0-9]`, image)
			require.NotContains(t, image, ":latest")
		}
	}
	for _, image := range regexp.MustCompile(`(?m)^ +image: (\S+)$`).FindAllStringSubmatch(read(t, "docker-compose.yml"), -1) {
		if image[1] != "reauth" {
			require.Regexp(t, `:v?\d`, image[1])
		}
	}
}

// The list of licences is whole, as far as go.mod tells, and each is allowed.
func TestLicences(t *testing.T) {
	rows, err := csv.NewReader(strings.NewReader(read(t, "docs/licences.csv"))).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"package", "licence"}, rows[0])
	allowed := []string{"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "Unlicense", "Public-Domain"}
	var packages []string
	for _, row := range rows[1:] {
		require.Contains(t, allowed, row[1], row[0])
		if row[1] == "Public-Domain" {
			require.Equal(t, "github.com/xi2/xz", row[0], "no licence at all is for this one alone, whose authors gave it away")
		}
		packages = append(packages, row[0])
	}
	require.Greater(t, len(packages), 50)
	require.True(t, slices.IsSorted(packages))
}

func TestContainersAreLockedDown(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	last := dockerfile[strings.LastIndex(dockerfile, "\nFROM "):]
	require.Contains(t, last, "distroless")
	require.Contains(t, last, "\nUSER nonroot:nonroot\n")
	var compose struct {
		Services map[string]struct {
			Image       string
			ReadOnly    bool     `yaml:"read_only"`
			CapDrop     []string `yaml:"cap_drop"`
			SecurityOpt []string `yaml:"security_opt"`
			Privileged  bool
			User        string
			Ports       []string
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "docker-compose.yml")), &compose))
	ours := 0
	for name, service := range compose.Services {
		for _, port := range service.Ports {
			require.True(t, strings.HasPrefix(port, "127.0.0.1:"), "%s is open to others at %s", name, port)
		}
		if service.Image != "reauth" {
			continue
		}
		ours++
		require.True(t, service.ReadOnly, name)
		require.Equal(t, []string{"ALL"}, service.CapDrop, name)
		require.Contains(t, service.SecurityOpt, "no-new-privileges:true", name)
		require.False(t, service.Privileged, name)
		require.Empty(t, service.User, name)
	}
	require.Equal(t, 3, ours)
}
