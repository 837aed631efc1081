package postgres

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func signalAtDeath(cmd *exec.Cmd, s syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = s
}

// commandLine returns how a process was called, or calls itself; empty when it
// is gone or a zombie.
func commandLine(pid int) string {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline") // a process that has ended has none
	return strings.ReplaceAll(string(text), "\x00", " ")
}

// processesOf finds the processes of a cluster.
func processesOf(name string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && belongs(commandLine(pid), name) {
			pids = append(pids, pid)
		}
	}
	return pids
}
