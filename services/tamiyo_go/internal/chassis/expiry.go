package chassis

import (
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// warningTime is how long before its end a certificate is worth a warning.
const warningTime = 21 * 24 * time.Hour

// firstEnd is when the first of certificates ends. What is none, or one that no handshake uses either, has no end.
func firstEnd(each [][]byte) (first time.Time) {
	for _, der := range each {
		found, err := x509.ParseCertificate(der)
		if err == nil && (first.IsZero() || found.NotAfter.Before(first)) {
			first = found.NotAfter
		}
	}
	return first
}

// warnOfEnd says in the log that a certificate of a file ends soon, if one does.
func warnOfEnd(file string, ends time.Time, log *slog.Logger) {
	if time.Until(ends) < warningTime {
		log.Warn("certificate ends soon", "file", file, "ends", ends.UTC().Format(time.RFC3339))
	}
}

var certificateEnd = prometheus.NewDesc(
	"leyline_certificate_end_timestamp_seconds", "When the first certificate of a file ends, since 1970.", []string{"file"}, nil,
)

// Describe says what certificates show.
func (c *certificates) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- certificateEnd }

// Collect shows when certificates end as they have been read, or, where the files have changed, as they are now.
func (c *certificates) Collect(metrics chan<- prometheus.Metric) {
	for file, end := range c.files.Now().ends {
		metrics <- prometheus.MustNewConstMetric(certificateEnd, prometheus.GaugeValue, float64(end.Unix()), file)
	}
}
