package chassis

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// longestUnixPath is sockaddr_un.sun_path on Linux, less its closing NUL.
const longestUnixPath = 107

// Address is where a server listens: a host and port, or a Unix socket. The zero Address is none.
type Address struct {
	host string
	port uint16
	path string
}

// ParseAddress reads HOST:PORT, [IPV6]:PORT or unix:/absolute/path; port 0 lets the kernel choose.
func ParseAddress(text string) (Address, error) {
	if path, isUnix := strings.CutPrefix(text, "unix:"); isUnix {
		// RFC 3986 would have unix:///path; gRPC takes both spellings, so both are read.
		path = strings.TrimPrefix(path, "//")
		switch {
		case !filepath.IsAbs(path):
			return Address{}, errors.New("a Unix socket needs an absolute path: unix:/run/leyline.sock")
		case len(path) > longestUnixPath:
			return Address{}, fmt.Errorf("a Unix socket's path has at most %d bytes", longestUnixPath)
		}
		return Address{path: path}, nil
	}
	host, portText, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return Address{}, errors.New("must be HOST:PORT, [IPV6]:PORT or unix:/absolute/path")
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return Address{}, errors.New("the port must be a number from 0 to 65535")
	}
	return Address{host: host, port: uint16(port)}, nil
}

// IsSet says whether it is an address at all.
func (a Address) IsSet() bool { return a != Address{} }

// IsLoopback says whether only this machine can reach it: 127.0.0.0/8, ::1, localhost, a Unix socket.
func (a Address) IsLoopback() bool {
	if a.path != "" || a.host == "localhost" {
		return true
	}
	// Any other name may resolve to anything, also tomorrow to something else than today.
	ip, err := netip.ParseAddr(a.host)
	return err == nil && ip.IsLoopback()
}

func (a Address) String() string {
	if a.path != "" {
		return "unix:" + a.path
	}
	return net.JoinHostPort(a.host, strconv.Itoa(int(a.port)))
}

// Set reads an address from a flag.
func (a *Address) Set(text string) (err error) {
	*a, err = ParseAddress(text)
	return err
}

// bind listens at the address and returns it with the port that it got. The error wraps EADDRINUSE where somebody else
// listens there.
func (a Address) bind() (net.Listener, Address, error) {
	if a.path != "" {
		if err := removeDeadSocket(a.path); err != nil {
			return nil, a, err
		}
		listener, err := net.Listen("unix", a.path)
		return listener, a, err
	}
	listener, err := net.Listen("tcp", a.String())
	if err != nil {
		return nil, a, err
	}
	a.port = listener.Addr().(*net.TCPAddr).AddrPort().Port()
	return listener, a, nil
}

// removeDeadSocket removes the socket that a killed server left, on which nobody listens.
func removeDeadSocket(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&os.ModeSocket == 0:
		return errors.New("a file that is no socket has the name")
	}
	living, err := net.Dial("unix", path)
	if err == nil {
		living.Close()
		return syscall.EADDRINUSE
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return err
}
