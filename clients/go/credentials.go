package leyline

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"leyline/clients/go/renewal"
)

// bearerPattern is what may stand in a header behind "Bearer ": RFC 6750, section 2.1.
var bearerPattern = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// Credentials are whom a client trusts, and what it shows: names of files, which may be replaced while it runs. A token
// counts from the next call on, certificates from the next connection on; those that cannot be used change nothing.
type Credentials struct {
	// CA has the PEM certificates that sign the server's; empty means plain text.
	CA string
	// Certificate is a PEM certificate to show; with Key, where a server asks for one.
	Certificate string
	// Key is the certificate's PEM private key.
	Key string
	// Token is a bearer token that calls carry (RFC 6750). It leaves this machine over TLS only.
	Token string
}

// CredentialsIn are those of a member of a stack: the files of a folder that `leyline certs` made.
func CredentialsIn(folder string) Credentials {
	in := Credentials{
		CA:          filepath.Join(folder, "ca.pem"),
		Certificate: filepath.Join(folder, "certificate.pem"),
		Key:         filepath.Join(folder, "key.pem"),
	}
	// Who calls nobody has none.
	if token := filepath.Join(folder, "token"); exists(token) {
		in.Token = token
	}
	return in
}

// transport is how connections are made.
func (c Credentials) transport() (credentials.TransportCredentials, error) {
	if c.CA == "" {
		return insecure.NewCredentials(), nil
	}
	made, err := renewal.Read([]string{c.CA, c.Certificate, c.Key}, c.tls, unheard)
	if err != nil {
		return nil, err
	}
	return renewed{made.Now(), made}, nil
}

func (c Credentials) tls() (credentials.TransportCredentials, error) {
	authorities, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("%s holds no PEM certificates", c.CA)
	}
	if c.Certificate == "" && c.Key == "" {
		return credentials.NewTLS(config), nil
	}
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("%q and %q are no PEM certificate with its key: %w", c.Certificate, c.Key, err)
	}
	config.Certificates = []tls.Certificate{pair}
	return credentials.NewTLS(config), nil
}

// unheard is what becomes of a change: a client has no log, and goes on with what it has.
func unheard[Made any](Made, error) {}

// renewed makes each connection with what the files hold at its beginning.
type renewed struct {
	credentials.TransportCredentials
	made *renewal.Files[credentials.TransportCredentials]
}

func (r renewed) ClientHandshake(ctx context.Context, authority string, connection net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return r.made.Now().ClientHandshake(ctx, authority, connection)
}

func (r renewed) Clone() credentials.TransportCredentials { return r }

// bearer shows a token with every call. There is none where nil is returned.
func (c Credentials) bearer(address string) (credentials.PerRPCCredentials, error) {
	file, here := c.Token, isHere(address)
	if file == "" && here {
		file = ownToken()
	}
	switch {
	case file == "":
		return nil, nil
	case c.CA == "" && !here:
		return nil, fmt.Errorf("the token in %s would go to %s in plain text; name the certificates that sign the server's, "+
			"or leave the token out", file, address)
	}
	read := func() (string, error) {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		token := strings.TrimSpace(string(content))
		if !bearerPattern.MatchString(token) {
			return "", errors.New(file + " holds no bearer token on one line")
		}
		return token, nil
	}
	token, err := renewal.Read([]string{file}, read, unheard)
	if err != nil {
		return nil, err
	}
	return bearer{token, here}, nil
}

type bearer struct {
	token *renewal.Files[string]
	here  bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token.Now()}, nil
}

func (b bearer) RequireTransportSecurity() bool { return !b.here }

// ownToken is the file with the token by which the services of `leyline up` know their user; empty where there is none.
func ownToken() string {
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		state = filepath.Join(home, ".local", "state")
	}
	file := filepath.Join(state, "leyline", "token")
	if !exists(file) {
		return ""
	}
	return file
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// isHere says whether only this machine can reach an address: 127.0.0.0/8, ::1, localhost, a Unix socket.
func isHere(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	// Any other name may resolve to anything, also tomorrow to something else than today.
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
