//go:build !linux

package postgres

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// signalAtDeath has no counterpart here: a server that was left running is
// stopped by the next Start on its directory.
func signalAtDeath(cmd *exec.Cmd, _ syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
}

// commandLine returns how a process was called, or calls itself; empty when it
// is gone.
func commandLine(pid int) string {
	text, _ := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output() // fails when there is none
	return string(text)
}

// processesOf finds the processes of a cluster.
func processesOf(name string) (pids []int) {
	text, _ := exec.Command("ps", "-axww", "-o", "pid=,command=").Output() // nothing is found where there is no ps
	for line := range strings.Lines(string(text)) {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err == nil && pid != os.Getpid() && belongs(strings.TrimSpace(command), name) {
			pids = append(pids, pid)
		}
	}
	return pids
}
