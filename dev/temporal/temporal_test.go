package temporal

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheProgramOnThePathIsTaken(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "temporal")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	t.Setenv("PATH", dir)
	var said bytes.Buffer
	found, err := Binary(t.Context(), &said)
	require.NoError(t, err)
	require.Equal(t, program, found)
	require.Empty(t, said.String())
}

func TestABuildIsKept(t *testing.T) {
	root, cache := t.TempDir(), t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	t.Setenv("PATH", t.TempDir()) // neither temporal nor go
	for name, content := range map[string]string{"tools.mod": "tool " + module + "\n", "tools.sum": "sum\n", "deep/er/file": ""} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
	}
	t.Chdir(filepath.Join(root, "deep", "er"))
	_, err := Binary(t.Context(), os.Stderr)
	require.ErrorContains(t, err, "building the Temporal command line", "there is none yet, and no go to build it")

	built := filepath.Join(root, "built")
	require.NoError(t, os.WriteFile(built, []byte("program"), 0o755))
	require.NoError(t, keep(built, keptBuild(moduleRoot())))
	found, err := Binary(t.Context(), os.Stderr)
	require.NoError(t, err)
	content, err := os.ReadFile(found)
	require.NoError(t, err)
	require.Equal(t, "program", string(content))

	require.NoError(t, os.WriteFile(filepath.Join(root, "tools.sum"), []byte("another version\n"), 0o644))
	_, err = Binary(t.Context(), os.Stderr)
	require.Error(t, err, "the kept build is of other modules")
}

func TestWithoutAnythingTheErrorSaysWhatToInstall(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	t.Chdir(t.TempDir())
	_, err := Binary(t.Context(), os.Stderr)
	require.ErrorContains(t, err, "no `temporal` on the PATH and no Go to build it with")
}

func TestArgs(t *testing.T) {
	server := Server{Port: 7233, UIPort: 8233, File: "/data/temporal.db", CodecEndpoint: "http://127.0.0.1:8080/codec"}
	require.Subset(t, server.Args(), []string{
		"127.0.0.1", "7233", "8233", "/data/temporal.db", "http://127.0.0.1:8080/codec",
		"ReauthConnectionId=Keyword", "ReauthProvider=Keyword", "ReauthPhase=Keyword",
	})
	server.Headless = true
	require.Contains(t, server.Args(), "--headless")
	require.NotContains(t, server.Args(), "--ui-port")
}
