package dev

import (
	"os/exec"
	"runtime"
	"syscall"
)

// launcher starts processes that the kernel kills when this process is gone,
// however it ended. The kernel watches the thread that started a process, so
// one thread, which never ends before the launcher is closed, starts them all.
type launcher struct {
	requests chan launchRequest
}

type launchRequest struct {
	cmd    *exec.Cmd
	result chan error
}

func newLauncher() (*launcher, error) {
	l := &launcher{requests: make(chan launchRequest)}
	go l.run()
	return l, nil
}

func (l *launcher) run() {
	runtime.LockOSThread()
	for r := range l.requests {
		r.result <- r.cmd.Start()
	}
}

func (l *launcher) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error)
	l.requests <- launchRequest{cmd, result}
	return <-result
}

func (l *launcher) watch(int)  {}
func (l *launcher) forget(int) {}
func (l *launcher) close()     { close(l.requests) }
