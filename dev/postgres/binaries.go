package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// oldest is the oldest major version that the tables and the driver work with.
const oldest = 14

// binaries is a folder with postgres and initdb.
type binaries struct {
	dir   string
	major int
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// command prepares one of the programs, to be run by an account.
func (b binaries) command(name string, as *account, args ...string) *exec.Cmd {
	cmd := exec.Command(b.path(name), args...)
	cmd.Dir = "/"
	// Nothing of our environment: it may hold secrets, and PG* would be obeyed.
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(as.uid), Gid: uint32(as.gid)}
	}
	return cmd
}

// finder knows where to look for binaries.
type finder struct {
	// path holds folders that count in their order, globs patterns of folders of
	// which the newest version counts first.
	path, globs []string
	// repository is where binaries are fetched from, cache where they are kept.
	repository, cache string
}

func installed() finder {
	f := finder{
		path: filepath.SplitList(os.Getenv("PATH")),
		globs: []string{
			"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
			"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin",
		},
	}
	if os.Geteuid() == 0 {
		f.cache = "/var/cache/reauth/postgres" // the server's account must be able to enter it
	} else if dir, err := os.UserCacheDir(); err == nil {
		f.cache = filepath.Join(dir, "reauth", "postgres")
	}
	return f
}

// find returns binaries of a major version; of any when major is 0. It fetches
// some when none are installed.
func (f finder) find(ctx context.Context, major int, log func(string)) (binaries, error) {
	fits := func(b binaries) bool { return b.major >= oldest && (major == 0 || b.major == major) }
	for _, dir := range f.path {
		if b, ok := inspect(ctx, dir); ok && fits(b) {
			return b, nil
		}
	}
	var found []binaries
	for _, pattern := range f.globs {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return binaries{}, err
		}
		for _, dir := range dirs {
			if b, ok := inspect(ctx, dir); ok && fits(b) {
				found = append(found, b)
			}
		}
	}
	if len(found) > 0 {
		sort.SliceStable(found, func(i, j int) bool { return found[i].major > found[j].major })
		return found[0], nil
	}
	return f.fetch(ctx, major, log)
}

var versionPattern = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)`)

// inspect tells which version a folder holds, if any.
func inspect(ctx context.Context, dir string) (binaries, bool) {
	if !filepath.IsAbs(dir) {
		return binaries{}, false // an entry of PATH that means the working directory
	}
	// A link in a folder of the PATH leads to where initdb is, too.
	postgres, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return binaries{}, false
	}
	b := binaries{dir: filepath.Dir(postgres)}
	if _, err := os.Stat(b.path("initdb")); err != nil {
		return binaries{}, false
	}
	output, err := exec.CommandContext(ctx, b.path("postgres"), "--version").Output()
	if err != nil {
		return binaries{}, false
	}
	match := versionPattern.FindSubmatch(output)
	if match == nil {
		return binaries{}, false
	}
	b.major, err = strconv.Atoi(string(match[1]))
	return b, err == nil
}

// fetchable are the versions that can be fetched, the one to take for new data
// first.
func fetchable() []embedded.PostgresVersion {
	return []embedded.PostgresVersion{embedded.V17, embedded.V18, embedded.V16, embedded.V15, embedded.V14}
}

// fetch downloads binaries once and keeps them.
func (f finder) fetch(ctx context.Context, major int, log func(string)) (binaries, error) {
	var version embedded.PostgresVersion
	for _, v := range fetchable() {
		if major == 0 || strings.HasPrefix(string(v), strconv.Itoa(major)+".") {
			version = v
			break
		}
	}
	switch {
	case version == "":
		return binaries{}, fmt.Errorf("the data there were written by PostgreSQL %d, which is not installed", major)
	case f.cache == "":
		return binaries{}, errors.New("PostgreSQL is not installed, and there is no cache folder to fetch it into (HOME is not set)")
	}
	if err := os.MkdirAll(f.cache, 0o755); err != nil {
		return binaries{}, err
	}
	lock, err := lockFile(ctx, filepath.Join(f.cache, "lock"), 10*time.Minute) // another process may be fetching it
	if err != nil {
		return binaries{}, err
	}
	defer func() { _ = lock.Close() }()

	home := filepath.Join(f.cache, string(version))
	if b, ok := inspect(ctx, filepath.Join(home, "bin")); ok {
		return b, nil
	}
	log("PostgreSQL: not installed; fetching version " + string(version) + " into " + f.cache)
	unfinished := home + ".new"
	scratch, err := os.MkdirTemp("", "reauth-postgres-")
	if err != nil {
		return binaries{}, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	port, err := freePort(ctx)
	if err != nil {
		return binaries{}, err
	}
	config := embedded.DefaultConfig().Version(version).Port(uint32(port)).Logger(io.Discard).
		CachePath(f.cache).RuntimePath(unfinished).DataPath(filepath.Join(scratch, "data"))
	if f.repository != "" {
		config = config.BinaryRepositoryURL(f.repository)
	}
	// The library fetches and unpacks when it starts a server, and has no call
	// for that alone. As root its server does not start, with everything unpacked.
	server := embedded.NewDatabase(config)
	err = server.Start()
	if err == nil {
		err = server.Stop()
	}
	if _, ok := inspect(ctx, filepath.Join(unfinished, "bin")); !ok {
		return binaries{}, fmt.Errorf("PostgreSQL is not installed, and fetching it failed: %w", err)
	}
	if err := os.RemoveAll(home); err != nil {
		return binaries{}, err
	}
	if err := os.Rename(unfinished, home); err != nil {
		return binaries{}, err
	}
	b, ok := inspect(ctx, filepath.Join(home, "bin"))
	if !ok {
		return binaries{}, fmt.Errorf("the binaries in %s do not run", home)
	}
	return b, nil
}
