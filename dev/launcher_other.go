//go:build unix && !linux

package dev

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// launcher starts processes and tells their IDs to a leash, a helper process
// that kills them when this process is gone, however it ended.
type launcher struct {
	mu    sync.Mutex
	leash *exec.Cmd
	pipe  io.WriteCloser
}

func newLauncher() (*launcher, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	leash := exec.Command(self, LeashCommand)
	leash.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := leash.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the leash: %w", err)
	}
	if err := leash.Start(); err != nil {
		return nil, fmt.Errorf("starting the leash: %w", err)
	}
	return &launcher{leash: leash, pipe: pipe}, nil
}

func (l *launcher) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	l.watch(cmd.Process.Pid)
	return nil
}

func (l *launcher) watch(pid int)  { l.tell("+%d\n", pid) }
func (l *launcher) forget(pid int) { l.tell("-%d\n", pid) }

func (l *launcher) tell(format string, pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = fmt.Fprintf(l.pipe, format, pid)
}

func (l *launcher) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.pipe.Close()
	_ = l.leash.Wait()
}
