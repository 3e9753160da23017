package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"leyline/clients/go/leylinev1"
)

// certify makes a certificate for 127.0.0.1 that is its own authority; returns its file, its key's, and both as one.
func certify(t *testing.T, name string) (certificate, key string, pair tls.Certificate) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
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
	folder := t.TempDir()
	certificate, key = filepath.Join(folder, name+".pem"), filepath.Join(folder, name+".key")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: signed},
		key:         {Type: "PRIVATE KEY", Bytes: keyBytes},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err = tls.LoadX509KeyPair(certificate, key); err != nil {
		t.Fatal(err)
	}
	return certificate, key, pair
}

func TestWithACertificateItSpeaksTLSToClientsThatShowTheirs(t *testing.T) {
	certificate, key, server := certify(t, "server")
	clientCA, _, client := certify(t, "client")
	p := start(t, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", clientCA)
	authorities := x509.NewCertPool()
	authorities.AddCert(server.Leaf)
	for name, c := range map[string]struct {
		config  *tls.Config
		welcome bool
	}{
		"with a certificate":    {&tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{client}}, true},
		"without one":           {&tls.Config{RootCAs: authorities}, false},
		"in plain text":         {nil, false},
		"that trusts others":    {&tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{client}}, false},
		"with an unknown one's": {&tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{server}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			policy := leylinev1.NewPolicyServiceClient(p.dial(t, c.config))
			_, err := policy.GetPolicyInfo(t.Context(), &leylinev1.GetPolicyInfoRequest{})
			if welcome := err == nil; welcome != c.welcome {
				t.Errorf("got %v", err)
			}
		})
	}
}
