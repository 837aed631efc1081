package postgres

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func gone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool { return commandLine(pid) == "" }, time.Minute, poll, "process %d is still there", pid)
}

func TestServerEndsWithItsKilledOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), helperDir+"="+dir)
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, line)
	require.NotEmpty(t, commandLine(pid))
	require.Contains(t, processesOf(nameOf(t, dir)), pid)

	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())
	gone(t, pid)
	require.Eventually(t, func() bool { return len(processesOf(nameOf(t, dir))) == 0 }, time.Minute, poll)
	assert.Equal(t, 1, query[int](t, startIn(t, Options{Dir: dir}), `SELECT 1`))
}

func TestServerIsUnprivileged(t *testing.T) {
	t.Setenv("REAUTH_SOME_SECRET", "hush")
	s := startIn(t, Options{Dir: t.TempDir()})
	assert.NotZero(t, ownerOf(t, s.Pid()))
	environment, err := os.ReadFile("/proc/" + strconv.Itoa(s.Pid()) + "/environ")
	require.NoError(t, err)
	assert.NotContains(t, string(environment), "hush")
}

func TestServerRunsAsTheOwnerOfItsData(t *testing.T) {
	if os.Geteuid() != 0 {
		// Then it can only run as we do.
		s := startIn(t, Options{Dir: t.TempDir()})
		assert.Equal(t, os.Geteuid(), ownerOf(t, s.Pid()))
		return
	}
	dir := t.TempDir()
	s := startIn(t, Options{Dir: dir})
	require.NoError(t, s.Stop())
	const other = 54321
	require.NoError(t, filepath.WalkDir(filepath.Join(dir, "cluster"), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, other, other))
	}))
	again := startIn(t, Options{Dir: dir})
	assert.Equal(t, other, ownerOf(t, again.Pid()))
}

func ownerOf(t *testing.T, pid int) int {
	info, err := os.Stat("/proc/" + strconv.Itoa(pid))
	require.NoError(t, err)
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
