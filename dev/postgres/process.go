package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// account is whom the server runs as; nil for ourselves.
type account struct {
	name     string
	uid, gid int
}

// unprivileged finds an account for the server, which refuses to run as root:
// the owner of the data if there are any, else one that the system has.
func unprivileged(data string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if info, err := os.Stat(data); err == nil {
		stat, ok := info.Sys().(*syscall.Stat_t)
		if ok && stat.Uid != 0 {
			return &account{name: "#" + strconv.Itoa(int(stat.Uid)), uid: int(stat.Uid), gid: int(stat.Gid)}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil || uid == 0 {
			continue
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			continue
		}
		return &account{name: name, uid: uid, gid: gid}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user \"postgres\" or \"nobody\" to run it")
}

// process is a child that ends when we do, where the system allows it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; valid after done
}

// launch starts a child in its own process group, so that a Ctrl-C is for us
// alone, and has it signalled when we die.
func launch(cmd *exec.Cmd, whenWeDie syscall.Signal) (*process, error) {
	signalAtDeath(cmd, whenWeDie)
	cmd.SysProcAttr.Setpgid = true
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// "When we die" means the death of the thread that started the child. It
		// is therefore kept until the child has ended; being locked, it serves no
		// other goroutine, and ends with this one.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // it fails when the child has ended

// stop shuts a server down and waits for its end. It reports false when the
// server had to be forced.
func (p *process) stop() bool {
	// Fast shutdown; then without writing anything; then without asking.
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		if p.ended() {
			return true
		}
		p.signal(s)
		select {
		case <-p.done:
			return s == syscall.SIGINT
		case <-time.After(stopPatience):
		}
	}
	<-p.done
	return false
}

// lockFile takes a file for this process, so that two never run one server.
func lockFile(ctx context.Context, path string, patience time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			_ = file.Close()
			return nil, fmt.Errorf("another process uses it (%s is locked)", path)
		}
		if err := sleep(ctx, poll); err != nil {
			_ = file.Close()
			return nil, err
		}
	}
}

// clusterName names the cluster of a lock file in the command lines of its
// processes. It follows the directory when that is moved, and differs when it
// is copied.
func clusterName(lock *os.File) (string, error) {
	info, err := lock.Stat()
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("the file system tells no inode numbers")
	}
	return fmt.Sprintf("reauth-%x-%x.", stat.Dev, stat.Ino), nil
}

// clearUp ends the processes of a cluster whose owner is gone; we hold the lock,
// so there is none. It also removes a pid file that names a process of
// somebody else's, for which the server would refuse to start.
func clearUp(ctx context.Context, name, pidFile string, log func(string)) error {
	postmaster, alive := recordedPid(pidFile)
	if alive && !belongs(commandLine(postmaster), name) {
		if err := os.Remove(pidFile); err != nil {
			return err
		}
		alive = false
	}
	left := processesOf(name)
	if len(left) == 0 {
		return nil
	}
	log("PostgreSQL: waiting for a server that was left running to stop")
	if alive {
		_ = syscall.Kill(postmaster, syscall.SIGINT) // it may have ended meanwhile
	}
	// Without their postmaster the others end by themselves.
	for deadline := time.Now().Add(stopPatience); len(left) > 0; left = processesOf(name) {
		if time.Now().After(deadline) {
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
	return nil
}

// belongs tells by its command line whether a process is one of a cluster: the
// postmaster was given the name, and the others call themselves by it.
func belongs(commandLine, name string) bool {
	return strings.Contains(commandLine, "cluster_name="+name) || strings.HasPrefix(commandLine, "postgres: "+name)
}

// recordedPid returns the process of a pid file, and whether it is alive.
func recordedPid(pidFile string) (pid int, alive bool) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return 0, false
	}
	err = syscall.Kill(pid, 0)
	return pid, err == nil || errors.Is(err, syscall.EPERM)
}
