package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
)

// certify makes a certificate of a name, for 127.0.0.1, that is its own authority; returns its file and its key's. Those of
// the same name in the same folder are replaced.
func certify(t *testing.T, folder, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(folder, name+".pem"), filepath.Join(folder, name+".key")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: signed},
		key:         {Type: "PRIVATE KEY", Bytes: keyBytes},
	} {
		replace(t, file, string(pem.EncodeToMemory(block)))
	}
	return certificate, key
}

func TestWithACertificateItSpeaksTLSToClientsThatShowTheirs(t *testing.T) {
	folder := t.TempDir()
	certificate, key := certify(t, folder, "server")
	own, ownKey := certify(t, folder, "client")
	p := start(t, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", own)
	for name, c := range map[string]struct {
		credentials leyline.Credentials
		welcome     bool
	}{
		"with a certificate":    {leyline.Credentials{CA: certificate, Certificate: own, Key: ownKey}, true},
		"without one":           {leyline.Credentials{CA: certificate}, false},
		"in plain text":         {leyline.Credentials{}, false},
		"that trusts others":    {leyline.Credentials{CA: own, Certificate: own, Key: ownKey}, false},
		"with an unknown one's": {leyline.Credentials{CA: certificate, Certificate: certificate, Key: key}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := ask(t, p.dial(t, c.credentials)); (err == nil) != c.welcome {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCertificatesAreReplacedOnBothSidesWithoutARestart(t *testing.T) {
	folder := t.TempDir()
	certificate, key := certify(t, folder, "server")
	own, ownKey := certify(t, folder, "client")
	// Connections end after a second, so that there is a next one; their calls may go on.
	p := start(t, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", own, "--max-connection-age-s", "1")
	client := p.dial(t, leyline.Credentials{CA: certificate, Certificate: own, Key: ownKey})
	stream, err := leylinev1.NewPolicyServiceClient(client).StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	decides(t, stream)
	before := leyline.Credentials{CA: certificate, Certificate: copyOf(t, own), Key: copyOf(t, ownKey)}

	certify(t, folder, "server")
	certify(t, folder, "client")
	if err := ask(t, p.dial(t, leyline.Credentials{CA: certificate, Certificate: own, Key: ownKey})); err != nil {
		t.Errorf("a new client: %v", err)
	}
	if err := ask(t, p.dial(t, before)); status.Code(err) != codes.Unavailable {
		t.Errorf("one with the certificate of before: %v", err)
	}
	renewed, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	for shown := (&x509.Certificate{}); !shown.Equal(renewed.Leaf); {
		var server peer.Peer
		if err := ask(t, client, grpc.Peer(&server)); err != nil {
			t.Fatalf("the client of before: %v", err)
		}
		shown = server.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0]
	}
	decides(t, stream)
}

func TestCertificatesThatDoNotFitChangeNothing(t *testing.T) {
	folder := t.TempDir()
	certificate, key := certify(t, folder, "server")
	p := start(t, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", certificate)
	credentials := leyline.Credentials{CA: copyOf(t, certificate), Certificate: copyOf(t, certificate), Key: copyOf(t, key)}
	_, anothers := certify(t, t.TempDir(), "another")
	for file, content := range map[string]string{key: contentOf(t, anothers), certificate: "no certificate"} {
		replace(t, file, content)
		for range 2 {
			if err := ask(t, p.dial(t, credentials)); err != nil {
				t.Error(err)
			}
		}
	}
	p.end()
	if said := strings.Count(p.log.String(), `"level":"error"`); said != 2 || strings.Count(p.log.String(), "certificates not read") != 2 {
		t.Errorf("the log has %d errors: %s", said, p.log)
	}
}

func TestAFolderOfCredentialsStandsForItsFilesAndHealthShowsThem(t *testing.T) {
	folder := t.TempDir()
	certificate, key := certify(t, folder, "own")
	for name, content := range map[string]string{
		"certificate.pem": contentOf(t, certificate), "ca.pem": contentOf(t, certificate), "key.pem": contentOf(t, key),
		"tokens": line("a-trainer", "trainer", "trainer"),
	} {
		replace(t, filepath.Join(folder, name), content)
	}
	p := start(t, "--credentials", folder)
	ask := func(credentials string) (code int, said string) {
		var stdout, stderr bytes.Buffer
		variable := func(name string) string { return map[string]string{"LEYLINE_CREDENTIALS": credentials}[name] }
		code = run([]string{"health", p.address}, variable, nil, &stdout, &stderr)
		return code, stdout.String() + stderr.String()
	}
	if code, said := ask(folder); code != exitOK || said != "SERVING\n" {
		t.Errorf("with them: %d, %s", code, said)
	}
	if code, said := ask(""); code != exitFailed || !strings.Contains(said, "Unavailable") {
		t.Errorf("without: %d, %s", code, said)
	}
	if code, said := ask(filepath.Join(folder, "nowhere")); code != exitFailed || !strings.Contains(said, "nowhere") {
		t.Errorf("with others: %d, %s", code, said)
	}
}
