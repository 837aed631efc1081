// Package temporal finds, or builds, the Temporal command line and says how to
// run its development server, with the web UI, on this machine.
package temporal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"

	"github.com/finch-reauth/reauth/reauth"
)

const (
	// Version is the release of the Temporal command line that is installed
	// where none is found.
	Version = "v1.5.1"
	// Namespace is the one the development server has.
	Namespace = "default"

	module       = "github.com/temporalio/cli/cmd/temporal"
	patience     = 3 * time.Second // before a person is told why it takes long
	stillWorking = 30 * time.Second
)

// Binary returns the path of a `temporal` program: the one on the PATH, else
// one built from the tools.mod of the module around the working directory,
// else one installed under the user's cache folder. A first build takes
// minutes; what happens is written to progress, a line at a time.
func Binary(ctx context.Context, progress io.Writer) (string, error) {
	if path, err := exec.LookPath("temporal"); err == nil {
		return filepath.Abs(path)
	}
	if root := moduleRoot(); root != "" {
		return fromTools(ctx, progress, root)
	}
	return install(ctx, progress)
}

// moduleRoot returns the folder around the working directory that holds both
// a go.mod and the tools.mod that pins the Temporal command line, or "".
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		tools, err := os.ReadFile(filepath.Join(dir, "tools.mod"))
		if err == nil && bytes.Contains(tools, []byte("tool "+module)) {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

func fromTools(ctx context.Context, progress io.Writer, root string) (string, error) {
	// Asking the go command takes seconds even when nothing is to be built.
	kept := keptBuild(root)
	if _, err := os.Stat(kept); kept != "" && err == nil {
		return kept, nil
	}
	out, err := patiently(ctx, progress, root, nil, "go", "tool", "-modfile=tools.mod", "-n", "temporal")
	if err != nil {
		return "", fmt.Errorf("building the Temporal command line: %w", err)
	}
	path := strings.TrimSpace(out)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("building the Temporal command line: no program at %q", path)
	}
	if kept != "" && keep(path, kept) == nil {
		return kept, nil
	}
	return path, nil
}

// keptBuild is where the build of a tools.mod is kept beyond the go command's
// own cache, which forgets what it did not build lately; "" means nowhere.
func keptBuild(root string) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	sum := sha256.New()
	for _, name := range []string{"tools.mod", "tools.sum"} {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return ""
		}
		sum.Write(content)
	}
	return filepath.Join(cache, "reauth", fmt.Sprintf("temporal-%s-%s-%x", runtime.GOOS, runtime.GOARCH, sum.Sum(nil)[:6]))
}

// keep links a program to a second place. Several processes may do so at once.
func keep(path, kept string) error {
	staging, err := stagingDir(filepath.Dir(kept))
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	staged := filepath.Join(staging, "temporal")
	if err := os.Link(path, staged); err != nil {
		return err
	}
	return os.Rename(staged, kept)
}

func install(ctx context.Context, progress io.Writer) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a folder for the Temporal command line: %w", err)
	}
	dir := filepath.Join(cache, "reauth")
	path := filepath.Join(dir, "temporal-"+Version)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.New("no `temporal` on the PATH and no Go to build it with; install one of the two, https://docs.temporal.io/cli tells how")
	}
	staging, err := stagingDir(dir)
	if err != nil {
		return "", fmt.Errorf("installing the Temporal command line: %w", err)
	}
	defer os.RemoveAll(staging)
	env := append(os.Environ(), "GOBIN="+staging)
	if _, err := patiently(ctx, progress, staging, env, "go", "install", module+"@"+Version); err != nil {
		return "", fmt.Errorf("installing the Temporal command line: %w", err)
	}
	if err := os.Rename(filepath.Join(staging, "temporal"), path); err != nil {
		return "", fmt.Errorf("installing the Temporal command line: %w", err)
	}
	return path, nil
}

func stagingDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, ".install-")
}

// patiently runs a command whose first run is slow, and says so after a moment.
func patiently(ctx context.Context, progress io.Writer, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	done := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		began := time.Now()
		for next := patience; ; next = stillWorking {
			select {
			case <-done:
				return
			case <-time.After(next):
			}
			if next == patience {
				fmt.Fprintln(progress, "building the Temporal server and its web UI; this happens once and takes some minutes ...")
			} else {
				fmt.Fprintf(progress, "still building the Temporal server (%s) ...\n", time.Since(began).Round(time.Second))
			}
		}
	}()
	err := cmd.Run()
	close(done)
	<-told
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Server describes a development server.
type Server struct {
	Port, UIPort int
	// File holds its data; empty keeps them in memory.
	File string
	// CodecEndpoint is where the web UI has payloads decoded; may be empty.
	CodecEndpoint string
	// Headless leaves the web UI out.
	Headless bool
}

// Address is where clients and workers find the server.
func (s Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// UIURL is where people find the web UI.
func (s Server) UIURL() string { return "http://127.0.0.1:" + strconv.Itoa(s.UIPort) }

// Args returns the arguments with which the `temporal` program becomes the
// server. It knows our search attributes if its file is new.
func (s Server) Args() []string {
	args := []string{
		"server", "start-dev",
		"--ip", "127.0.0.1", "--port", strconv.Itoa(s.Port),
		"--namespace", Namespace,
		"--log-level", "warn",
	}
	for _, attribute := range []string{reauth.SearchAttributeConnectionID, reauth.SearchAttributeProvider, reauth.SearchAttributePhase} {
		args = append(args, "--search-attribute", attribute+"=Keyword")
	}
	if s.File != "" {
		args = append(args, "--db-filename", s.File)
	}
	if s.Headless {
		return append(args, "--headless")
	}
	args = append(args, "--ui-port", strconv.Itoa(s.UIPort))
	if s.CodecEndpoint != "" {
		args = append(args, "--ui-codec-endpoint", s.CodecEndpoint)
	}
	return args
}

// Ready returns nil once the server, its namespace and its web UI answer.
func (s Server) Ready(ctx context.Context) error {
	c, err := client.DialContext(ctx, client.Options{
		HostPort:  s.Address(),
		Namespace: Namespace,
		Logger:    log.NewStructuredLogger(slog.New(slog.DiscardHandler)),
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
		return err
	}
	// CountWorkflow answers only once the namespace and its search attributes do.
	if _, err := c.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{}); err != nil {
		return err
	}
	if s.Headless {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.UIURL()+"/api/v1/namespaces", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("its web UI answers %s", response.Status)
	}
	return nil
}
