package chassis

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// EnvironmentPrefix begins the name of each setting's variable: --drain-grace-s is LEYLINE_TAMIYO_DRAIN_GRACE_S.
const EnvironmentPrefix = "LEYLINE_TAMIYO_"

// Settings are what every server can be told.
type Settings struct {
	Listen                Address
	MetricsListen         Address // no address: nowhere
	Insecure              bool
	Credentials           string
	TLSCertificate        string
	TLSKey                string
	TLSClientCA           string
	Tokens                string
	MaxMessageBytes       int
	DrainGrace            time.Duration
	MaxConnectionAge      time.Duration
	MaxConnectionAgeGrace time.Duration
	MaxConcurrentRPCs     int
	// MaxConcurrentRPCsPerCaller is 0 where one caller may have all of them.
	MaxConcurrentRPCsPerCaller int
	// CallsPerSPerCaller is 0 where callers may begin any number.
	CallsPerSPerCaller float64
	DefaultDeadline    time.Duration
	Keepalive          time.Duration
	KeepaliveTimeout   time.Duration
	LogLevel           slog.Level
	PortFile           string
}

// Register declares a flag for each setting.
func (s *Settings) Register(flags *flag.FlagSet) {
	flags.Var(&s.Listen, "listen", "`HOST:PORT`, [IPV6]:PORT or unix:/absolute/path to listen on; port 0 lets the kernel choose")
	flags.Func("metrics-listen", "`HOST:PORT` or [IPV6]:PORT where GET /metrics answers Prometheus; without it nowhere", s.setMetricsListen)
	flags.BoolVar(&s.Insecure, "insecure", false, "allow plain text, or calls of whoever comes, on an address that other machines reach")
	flags.StringVar(&s.Credentials, "credentials", "", "`FOLDER` that leyline certs made; each of the four below that is not given is the file of it")
	flags.StringVar(&s.TLSCertificate, "tls-certificate", "", "PEM `FILE` with the chain that this server shows; with the key it speaks TLS only")
	flags.StringVar(&s.TLSKey, "tls-key", "", "PEM `FILE` with the private key of the certificate")
	flags.StringVar(&s.TLSClientCA, "tls-client-ca", "", "PEM `FILE` with certificates; given, clients must show one that these have signed")
	flags.StringVar(&s.Tokens, "tokens", "", "`FILE` with a line for each token: NAME SCOPES sha256:DIGEST; given, callers must show one, but for health")
	integer(flags, &s.MaxMessageBytes, "max-message-bytes", 4<<20, 64<<10, 64<<20, "largest message in either direction")
	seconds(flags, &s.DrainGrace, "drain-grace-s", 10, 0, 3600, "`SECONDS` that open calls have to end after SIGTERM")
	seconds(flags, &s.MaxConnectionAge, "max-connection-age-s", 1800, 1, 86400, "`SECONDS` after which clients have to connect anew")
	seconds(flags, &s.MaxConnectionAgeGrace, "max-connection-age-grace-s", 3600, 0, 86400, "`SECONDS` that calls on an old connection may go on")
	integer(flags, &s.MaxConcurrentRPCs, "max-concurrent-rpcs", 1024, 1, 100_000, "calls open at once; 32 health watches of callers without a token come on top")
	integer(flags, &s.MaxConcurrentRPCsPerCaller, "max-concurrent-rpcs-per-caller", 0, 0, 100_000,
		"the same for one caller, by its token or else its address; 0: as many as the server takes")
	number(flags, "calls-per-s-per-caller", 0, 0, 1_000_000,
		"`CALLS` that one caller may begin in a second; messages on a stream are not counted; 0: any number",
		func(given float64) { s.CallsPerSPerCaller = given })
	seconds(flags, &s.DefaultDeadline, "default-deadline-s", 60, 0.001, 3600, "`SECONDS` for a unary call whose client gave no deadline")
	seconds(flags, &s.Keepalive, "keepalive-s", 30, 10, 3600, "`SECONDS` of silence after which a connection is probed")
	seconds(flags, &s.KeepaliveTimeout, "keepalive-timeout-s", 10, 1, 600, "`SECONDS` to wait for the answer")
	flags.Func("log-level", "`LEVEL` of the least severe that is logged: debug, info, warning or error (default info)", s.setLogLevel)
	flags.StringVar(&s.PortFile, "port-file", "", "`FILE` to write the address into once it is bound")
}

func (s *Settings) setMetricsListen(text string) error {
	address, err := ParseAddress(text)
	if err != nil || address.path != "" {
		return errors.New("must be HOST:PORT or [IPV6]:PORT")
	}
	s.MetricsListen = address
	return nil
}

func (s *Settings) setLogLevel(text string) error {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "error": slog.LevelError,
	}
	level, known := levels[text]
	if !known {
		return errors.New("must be debug, info, warning or error")
	}
	s.LogLevel = level
	return nil
}

func integer(flags *flag.FlagSet, into *int, name string, value, least, most int, usage string) {
	*into = value
	flags.Func(name, fmt.Sprintf("%s, from %d to %d (default %d)", usage, least, most, value), func(text string) error {
		given, err := strconv.Atoi(text)
		if err != nil || given < least || given > most {
			return fmt.Errorf("must be a whole number from %d to %d", least, most)
		}
		*into = given
		return nil
	})
}

func number(flags *flag.FlagSet, name string, value, least, most float64, usage string, set func(float64)) {
	set(value)
	flags.Func(name, fmt.Sprintf("%s, from %g to %.7g (default %g)", usage, least, most, value), func(text string) error {
		given, err := strconv.ParseFloat(text, 64)
		if err != nil || !(least <= given && given <= most) {
			return fmt.Errorf("must be a number from %g to %.7g", least, most)
		}
		set(given)
		return nil
	})
}

func seconds(flags *flag.FlagSet, into *time.Duration, name string, value, least, most float64, usage string) {
	number(flags, name, value, least, most, usage, func(given float64) {
		*into = time.Duration(given * float64(time.Second))
	})
}

// SettingsError says what is wrong with the settings, a line for each problem.
type SettingsError struct {
	Problems []string
}

func (e *SettingsError) Error() string { return strings.Join(e.Problems, "\n") }

// Load reads the settings: a flag wins over the environment, the environment over the default. An empty variable is an unset
// one. The error is a [*SettingsError], or flag.ErrHelp.
func Load(settings *Settings, flags *flag.FlagSet, arguments []string, variable func(string) string) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return &SettingsError{[]string{err.Error()}}
	}
	var problems []string
	if rest := flags.Args(); len(rest) > 0 {
		problems = append(problems, fmt.Sprintf("unexpected argument %q", rest[0]))
	}
	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	flags.VisitAll(func(f *flag.Flag) {
		text := variable(variableOf(f.Name))
		if given[f.Name] || text == "" {
			return
		}
		if err := flags.Set(f.Name, text); err != nil {
			problems = append(problems, fmt.Sprintf("%s=%s: %v", variableOf(f.Name), text, err))
		}
	})
	settings.fillFromFolder()
	if problems = append(problems, settings.problems()...); len(problems) > 0 {
		return &SettingsError{problems}
	}
	return nil
}

func (s *Settings) fillFromFolder() {
	if s.Credentials == "" {
		return
	}
	for setting, file := range map[*string]string{
		&s.TLSCertificate: "certificate.pem", &s.TLSKey: "key.pem", &s.TLSClientCA: "ca.pem", &s.Tokens: "tokens",
	} {
		if *setting == "" {
			*setting = filepath.Join(s.Credentials, file)
		}
	}
}

func (s *Settings) problems() (all []string) {
	certificate, key, client := variableOf("tls-certificate"), variableOf("tls-key"), variableOf("tls-client-ca")
	switch {
	case s.TLSCertificate == "" && s.TLSKey != "":
		all = append(all, certificate+" is missing: TLS needs both or neither")
	case s.TLSCertificate != "" && s.TLSKey == "":
		all = append(all, key+" is missing: TLS needs both or neither")
	case s.TLSCertificate == "" && s.TLSClientCA != "":
		all = append(all, fmt.Sprintf("%s asks clients for certificates, which needs %s and %s", client, certificate, key))
	}
	if s.MetricsListen == s.Listen && s.Listen.port != 0 {
		all = append(all, fmt.Sprintf("%s=%s is where gRPC listens; metrics need another port", variableOf("metrics-listen"), s.Listen))
	}
	if s.Insecure {
		return all
	}
	for _, listening := range []struct {
		setting string
		address Address
	}{{"listen", s.Listen}, {"metrics-listen", s.MetricsListen}} {
		if address := listening.address; s.TLSCertificate == "" && address.IsSet() && !address.IsLoopback() {
			all = append(all, fmt.Sprintf(
				"%s=%s would take plain text from other machines; set %s and %s, or allow it with --insecure",
				variableOf(listening.setting), address, certificate, key))
		}
	}
	if !s.Listen.IsLoopback() && s.TLSCertificate != "" && s.TLSClientCA == "" && s.Tokens == "" {
		all = append(all, fmt.Sprintf(
			"%s=%s would take calls of whoever reaches it; set %s or %s, or allow it with --insecure",
			variableOf("listen"), s.Listen, variableOf("tokens"), client))
	}
	return all
}

func variableOf(name string) string {
	return EnvironmentPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// PrintHelp writes what a program does, how it is used, and what it can be told.
func PrintHelp(to io.Writer, flags *flag.FlagSet, description, examples string) {
	fmt.Fprintf(to, "usage: %s [options]\n\n%s\n\noptions:\n", flags.Name(), description)
	flags.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(to, "  --%s\n      %s\n", strings.TrimSpace(f.Name+" "+value), usage)
	})
	fmt.Fprintf(to, "\n%s\nEach option is also an environment variable: --drain-grace-s is %s.\n", examples, variableOf("drain-grace-s"))
}

// NewLog writes one JSON object a line, with the names that the Python services use.
func NewLog(to io.Writer, service string, level slog.Level) *slog.Logger {
	rename := func(groups []string, attribute slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return attribute
		}
		switch attribute.Key {
		case slog.TimeKey:
			return slog.String("timestamp", attribute.Value.Time().UTC().Format(time.RFC3339Nano))
		case slog.MessageKey:
			attribute.Key = "event"
		case slog.LevelKey:
			level := strings.ToLower(attribute.Value.String())
			return slog.String("level", strings.Replace(level, "warn", "warning", 1))
		}
		return attribute
	}
	handler := slog.NewJSONHandler(to, &slog.HandlerOptions{Level: level, ReplaceAttr: rename})
	return slog.New(handler).With("service", service)
}
