package chassis

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"time"

	"google.golang.org/grpc/credentials"

	"leyline/clients/go/renewal"
)

// warningTime is how long before its end a certificate is worth a warning.
const warningTime = 21 * 24 * time.Hour

// tlsCredentials are a server's certificate and key, and whose certificates its clients must show. Files that are replaced
// later count from the next connection on. The error is a [*SettingsError].
func tlsCredentials(settings Settings, log *slog.Logger) (credentials.TransportCredentials, error) {
	files := []string{settings.TLSCertificate, settings.TLSKey, settings.TLSClientCA}
	read := func() (*tls.Config, error) { return tlsConfig(settings, log) }
	config, err := renewal.Read(files, read, func(_ *tls.Config, err error) {
		if err != nil {
			log.Error("certificates not read", "problem", err.Error())
		} else {
			log.Info("certificates read")
		}
	})
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config.Now(), nil },
	}), nil
}

func tlsConfig(settings Settings, log *slog.Logger) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(settings.TLSCertificate, settings.TLSKey)
	if err != nil {
		return nil, &SettingsError{[]string{fmt.Sprintf(
			"%s and %s are no PEM certificate with its key: %v", settings.TLSCertificate, settings.TLSKey, err)}}
	}
	warnOfEnd(settings.TLSCertificate, pair.Leaf, log)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if settings.TLSClientCA == "" {
		return config, nil
	}
	authorities, err := os.ReadFile(settings.TLSClientCA)
	if err != nil {
		return nil, &SettingsError{[]string{fmt.Sprintf("%s cannot be read: %v", settings.TLSClientCA, rootOf(err))}}
	}
	config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !config.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, &SettingsError{[]string{settings.TLSClientCA + " holds no PEM certificates"}}
	}
	for block, rest := pem.Decode(authorities); block != nil; block, rest = pem.Decode(rest) {
		if authority, err := x509.ParseCertificate(block.Bytes); err == nil {
			warnOfEnd(settings.TLSClientCA, authority, log)
		}
	}
	return config, nil
}

// warnOfEnd says in the log that a certificate ends soon, if it does.
func warnOfEnd(file string, certificate *x509.Certificate, log *slog.Logger) {
	if time.Until(certificate.NotAfter) < warningTime {
		log.Warn("certificate ends soon", "file", file, "ends", certificate.NotAfter.UTC().Format(time.RFC3339))
	}
}
