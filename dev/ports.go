package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

// Ports are the TCP ports of the parts, all on 127.0.0.1.
type Ports struct {
	API      int `json:"api"`
	UI       int `json:"ui"`
	Temporal int `json:"temporal"`
	Postgres int `json:"postgres"`
	Inbox    int `json:"inbox"`
	SMTP     int `json:"smtp"`
	Finch    int `json:"finch"`
}

// DefaultPorts are the ports that `reauth dev` takes when nothing else is said.
func DefaultPorts() Ports {
	return Ports{API: 8080, UI: 8233, Temporal: 7233, Postgres: 5433, Inbox: 8025, SMTP: 1025, Finch: 8090}
}

type portField struct {
	flag string
	port *int
}

func (p *Ports) fields() []portField {
	return []portField{
		{"--api-port", &p.API}, {"--ui-port", &p.UI}, {"--temporal-port", &p.Temporal}, {"--postgres-port", &p.Postgres},
		{"--inbox-port", &p.Inbox}, {"--smtp-port", &p.SMTP}, {"--finch-port", &p.Finch},
	}
}

// Automatic ports come in blocks below the range from which operating systems
// take the ports of outgoing connections.
const (
	firstBlock = 15000
	lastBlock  = 31984
	blockSize  = 16
)

// portClaim is a set of ports that no other `reauth dev` on this machine takes
// while it is held.
type portClaim struct {
	Ports
	guard net.Listener
}

func (c *portClaim) release() {
	if c.guard != nil {
		_ = c.guard.Close()
	}
}

// claimPorts settles which ports to use. Ports that wanted names are taken as
// they are, and it is an error if one is not free. For the rest the defaults
// are taken; or, with auto, those that file remembers from an earlier start
// where they are free, so that links in old mails stay valid, and else free
// ones. With auto the answer is remembered in file.
func claimPorts(wanted Ports, auto bool, file string) (*portClaim, error) {
	claim := &portClaim{Ports: wanted}
	if !auto {
		defaults := DefaultPorts()
		fallback := defaults.fields()
		for i, f := range claim.fields() {
			if *f.port == 0 {
				*f.port = *fallback[i].port
			}
			if !isFree(*f.port) {
				return nil, fmt.Errorf("port %d is taken by another program; choose another one with %s, or let free ones be found with --ports auto", *f.port, f.flag)
			}
		}
		return claim, claim.distinct()
	}

	remembered, err := readPorts(file)
	if err != nil {
		return nil, err
	}
	block, guard, err := freeBlock()
	if err != nil {
		return nil, err
	}
	claim.guard = guard
	earlier := remembered.fields()
	for i, f := range claim.fields() {
		switch {
		case *f.port != 0:
			if !isFree(*f.port) {
				claim.release()
				return nil, fmt.Errorf("port %d is taken by another program; choose another one with %s", *f.port, f.flag)
			}
		case *earlier[i].port != 0 && isFree(*earlier[i].port):
			*f.port = *earlier[i].port
		default:
			*f.port = block + 1 + i
		}
	}
	if err := claim.distinct(); err != nil {
		claim.release()
		return nil, err
	}
	text, err := json.MarshalIndent(claim.Ports, "", "  ")
	if err == nil {
		err = writeFile(file, append(text, '\n'), 0o600)
	}
	if err != nil {
		claim.release()
		return nil, fmt.Errorf("remembering the ports: %w", err)
	}
	return claim, nil
}

func (c *portClaim) distinct() error {
	taken := map[int]string{}
	for _, f := range c.fields() {
		if other, double := taken[*f.port]; double {
			return fmt.Errorf("%s and %s are both %d", other, f.flag, *f.port)
		}
		taken[*f.port] = f.flag
	}
	return nil
}

func readPorts(file string) (Ports, error) {
	var p Ports
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, fmt.Errorf("reading the ports of the last start, %s: %w", file, err)
	}
	return p, nil
}

// freeBlock finds a block of free ports. The listener on its first port keeps
// other processes that call freeBlock out of the block.
func freeBlock() (first int, guard net.Listener, err error) {
	for range 200 {
		first = firstBlock + blockSize*rand.IntN((lastBlock-firstBlock)/blockSize)
		guard, err = net.Listen("tcp", address(first))
		if err != nil {
			continue
		}
		free := true
		for port := first + 1; port < first+blockSize; port++ {
			free = free && isFree(port)
		}
		if free {
			return first, guard, nil
		}
		_ = guard.Close()
	}
	return 0, nil, errors.New("no free ports were found")
}

func isFree(port int) bool {
	listener, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
