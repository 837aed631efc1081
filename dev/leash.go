package dev

import (
	"bufio"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// LeashCommand is the hidden subcommand that runs Leash, on systems whose
// kernel cannot tie the life of a process to that of its parent.
const LeashCommand = "dev-leash"

// Leash reads the IDs of processes from in, one on each line: "+ID" for one
// that began, "-ID" for one that has ended. When in ends, because whoever held
// its other end is gone, it calls kill for each process that is left.
func Leash(in io.Reader, kill func(pid int)) {
	alive := map[int]bool{}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		began, ended := strings.CutPrefix(lines.Text(), "-")
		pid, err := strconv.Atoi(strings.TrimPrefix(began, "+"))
		switch {
		case err != nil || pid <= 1:
		case ended:
			delete(alive, pid)
		default:
			alive[pid] = true
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(alive)) {
		kill(pid)
	}
}
