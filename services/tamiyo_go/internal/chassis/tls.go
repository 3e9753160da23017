package chassis

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"time"

	"leyline/clients/go/renewal"
)

// certificates are a server's certificate and key, and whose certificates its clients must show. Files that are replaced
// later count from the next connection on.
type certificates struct {
	files *renewal.Files[*certified]
}

// certified is what the files make.
type certified struct {
	config *tls.Config
	// ends are those of the first certificates of files to end, by the settings that name the files.
	ends map[string]time.Time
}

// newCertificates reads the files. The error is a [*SettingsError].
func newCertificates(settings Settings, log *slog.Logger) (*certificates, error) {
	names := []string{settings.TLSCertificate, settings.TLSKey, settings.TLSClientCA}
	read := func() (*certified, error) { return readCertificates(settings, log) }
	files, err := renewal.Read(names, read, func(_ *certified, err error) {
		if err != nil {
			log.Error("certificates not read", "problem", err.Error())
		} else {
			log.Info("certificates read")
		}
	})
	return &certificates{files}, err
}

// config is that of a listener.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.files.Now().config, nil },
	}
}

func readCertificates(settings Settings, log *slog.Logger) (*certified, error) {
	pair, err := tls.LoadX509KeyPair(settings.TLSCertificate, settings.TLSKey)
	if err != nil {
		return nil, &SettingsError{[]string{fmt.Sprintf(
			"%s and %s are no PEM certificate with its key: %v", settings.TLSCertificate, settings.TLSKey, err)}}
	}
	made := &certified{
		config: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ends:   map[string]time.Time{"tls_certificate": firstEnd(pair.Certificate)},
	}
	warnOfEnd(settings.TLSCertificate, made.ends["tls_certificate"], log)
	if settings.TLSClientCA == "" {
		return made, nil
	}
	authorities, err := os.ReadFile(settings.TLSClientCA)
	if err != nil {
		return nil, &SettingsError{[]string{fmt.Sprintf("%s cannot be read: %v", settings.TLSClientCA, rootOf(err))}}
	}
	made.config.ClientCAs, made.config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !made.config.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, &SettingsError{[]string{settings.TLSClientCA + " holds no PEM certificates"}}
	}
	var each [][]byte
	for block, rest := pem.Decode(authorities); block != nil; block, rest = pem.Decode(rest) {
		each = append(each, block.Bytes)
	}
	made.ends["tls_client_ca"] = firstEnd(each)
	warnOfEnd(settings.TLSClientCA, made.ends["tls_client_ca"], log)
	return made, nil
}
