package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
	// A part that ran for this long before it ended is restarted without delay.
	steady = 30 * time.Second

	stopGrace   = 10 * time.Second
	maxLogBytes = 16 << 20
)

// Part is one operating-system process that a Supervisor keeps alive.
type Part struct {
	Name    string
	Command string
	Args    []string
	Env     []string
	// Ready is asked again and again until it returns nil; only then is the
	// part started. A nil Ready means that a part that runs is ready.
	Ready func(context.Context) error
}

// Supervisor runs parts as children of this process. A child that dies is
// started again; all of them die with this process, even when it is killed.
type Supervisor struct {
	logDir  string
	say     func(format string, args ...any)
	changed func()
	launch  *launcher

	mu       sync.Mutex
	children map[string]*child
	order    []string
}

// NewSupervisor keeps the output of each part in logDir/NAME.log. It tells a
// person what happens through say, and calls changed after each change of Pids.
func NewSupervisor(logDir string, say func(format string, args ...any), changed func()) (*Supervisor, error) {
	if err := os.MkdirAll(logDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the log folder: %w", err)
	}
	launch, err := newLauncher()
	if err != nil {
		return nil, err
	}
	return &Supervisor{logDir: logDir, say: say, changed: changed, launch: launch, children: map[string]*child{}}, nil
}

// Start starts a part and returns once it is ready. If it ends before that, or
// is not ready when ctx ends, the error shows the last lines of its log.
func (s *Supervisor) Start(ctx context.Context, part Part) error {
	c := &child{part: part, supervisor: s, decided: make(chan struct{}), stopping: make(chan struct{}), done: make(chan struct{})}
	if err := c.spawn(); err != nil {
		return fmt.Errorf("starting %s: %w", part.Name, err)
	}
	s.mu.Lock()
	s.children[part.Name] = c
	s.order = append(s.order, part.Name)
	s.mu.Unlock()
	go c.keep()
	s.changed()

	if err := c.awaitReady(ctx); err != nil {
		s.Stop(part.Name)
		return fmt.Errorf("%s did not start: %w%s", part.Name, err, c.lastLines())
	}
	return nil
}

// Run runs a part once to its end, which must be a success.
func (s *Supervisor) Run(ctx context.Context, part Part) error {
	c := &child{part: part, supervisor: s}
	if err := c.spawn(); err != nil {
		return fmt.Errorf("starting %s: %w", part.Name, err)
	}
	select {
	case <-c.exited:
	case <-ctx.Done():
		c.kill()
		<-c.exited
		return fmt.Errorf("%s did not end: %w%s", part.Name, context.Cause(ctx), c.lastLines())
	}
	if c.exit != nil {
		return fmt.Errorf("%s failed: %w%s", part.Name, c.exit, c.lastLines())
	}
	return nil
}

// Pids returns the process ID of each part by its name.
func (s *Supervisor) Pids() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	pids := make(map[string]int, len(s.children))
	for name, c := range s.children {
		pids[name] = c.pid()
	}
	return pids
}

// Stop ends the named parts one after the other and waits for each: first
// politely, then by force. Names that do not run are passed over.
func (s *Supervisor) Stop(names ...string) {
	for _, name := range names {
		s.mu.Lock()
		c := s.children[name]
		delete(s.children, name)
		s.order = slices.DeleteFunc(s.order, func(n string) bool { return n == name })
		s.mu.Unlock()
		if c != nil {
			c.stop()
			s.changed()
		}
	}
}

// Close stops what still runs, the youngest part first.
func (s *Supervisor) Close() {
	s.mu.Lock()
	names := slices.Clone(s.order)
	s.mu.Unlock()
	slices.Reverse(names)
	s.Stop(names...)
	s.launch.close()
}

// child is one part and the process that runs it now.
type child struct {
	part       Part
	supervisor *Supervisor

	mu      sync.Mutex
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{} // closed when the process that runs now has ended
	exit    error         // valid once exited is closed

	decided  chan struct{} // closed once it is known whether the part became ready
	ready    bool          // valid once decided is closed
	stopOnce sync.Once
	stopping chan struct{}
	done     chan struct{} // closed when nothing is spawned any more
}

func (c *child) logPath() string {
	return filepath.Join(c.supervisor.logDir, c.part.Name+".log")
}

func (c *child) spawn() error {
	if info, err := os.Stat(c.logPath()); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(c.logPath(), c.logPath()+".1"); err != nil {
			return fmt.Errorf("setting an old log aside: %w", err)
		}
	}
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening its log: %w", err)
	}
	defer log.Close()

	cmd := exec.Command(c.part.Command, c.part.Args...)
	cmd.Env = c.part.Env
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own keeps the terminal's Ctrl-C away from it: we stop the
	// parts in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.supervisor.launch.start(cmd); err != nil {
		return err
	}

	exited := make(chan struct{})
	c.mu.Lock()
	c.cmd, c.started, c.exited = cmd, time.Now(), exited
	c.mu.Unlock()
	go func() {
		err := cmd.Wait()
		c.supervisor.launch.forget(cmd.Process.Pid)
		c.mu.Lock()
		c.exit = err
		c.mu.Unlock()
		close(exited)
	}()
	return nil
}

func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd.Process.Pid
}

func (c *child) current() (exited chan struct{}, started time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exited, c.started
}

func (c *child) exitError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit == nil {
		return errors.New("it ended by itself")
	}
	return c.exit
}

// awaitReady waits for the first process of the part. A part that ends before
// it was ever ready is not started again: its settings are wrong, most likely.
func (c *child) awaitReady(ctx context.Context) error {
	defer close(c.decided)
	exited, _ := c.current()
	for {
		var err error
		if c.part.Ready != nil {
			ask, cancel := context.WithTimeout(ctx, 5*time.Second)
			err = c.part.Ready(ask)
			cancel()
		}
		if err == nil {
			c.ready = true
			return nil
		}
		select {
		case <-exited:
			return c.exitError()
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// keep starts the part again whenever it ends, until it is stopped.
func (c *child) keep() {
	defer close(c.done)
	backoff := firstBackoff
	for {
		exited, started := c.current()
		select {
		case <-exited:
		case <-c.stopping:
			return
		}
		if <-c.decided; !c.ready {
			return
		}
		if time.Since(started) > steady {
			backoff = firstBackoff
		}
		c.supervisor.say("%s ended (%v); starting it again", c.part.Name, c.exitError())
		for {
			select {
			case <-time.After(backoff):
			case <-c.stopping:
				return
			}
			backoff = min(2*backoff, maxBackoff)
			err := c.spawn()
			if err == nil {
				break
			}
			c.supervisor.say("%s cannot be started: %v", c.part.Name, err)
		}
		c.supervisor.changed()
	}
}

func (c *child) stop() {
	c.stopOnce.Do(func() { close(c.stopping) })
	<-c.done
	exited, _ := c.current()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(stopGrace):
		c.kill()
		<-exited
	}
}

func (c *child) kill() {
	_ = syscall.Kill(-c.pid(), syscall.SIGKILL)
}

// lastLines shows the end of the log, for the error of a part that failed.
func (c *child) lastLines() string {
	tail := tailOf(c.logPath(), 15)
	if tail == "" {
		return ""
	}
	return fmt.Sprintf("\nthe last lines of %s:\n%s", c.logPath(), tail)
}

func tailOf(path string, lines int) string {
	const window = 16 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-window), io.SeekStart)
	}
	text, err := io.ReadAll(io.LimitReader(f, window))
	if err != nil {
		return ""
	}
	all := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return "    " + strings.Join(all[max(0, len(all)-lines):], "\n    ")
}
