package chassis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"leyline/clients/go/leylinev1"
	"leyline/clients/go/renewal"
)

const (
	scheme    = "Bearer "
	openToAll = "/grpc.health.v1.Health/"
	// healthCheck is answered whatever else is open.
	healthCheck = openToAll + "Check"
)

// forAnyToken are services of gRPC's own.
var forAnyToken = []string{"/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"}

var tokenLine = regexp.MustCompile(`^(\S+)\s+([a-z,]+)\s+sha256:([0-9a-f]{64})$`)

// scopeNames are those that a token may have.
var scopeNames = everyScope()

// caller is whose token it is, and what it is for.
type caller struct {
	name   string
	scopes []string
}

// callers are those whose tokens a server takes (RFC 6750), by the SHA-256 of the token: so their file is no secret that
// opens other doors.
type callers map[string]caller

// newCallers reads a file with a token a line: name, scopes with commas between them, digest. # begins a comment.
//
// The file is read anew whenever it changes: a token is replaced by adding its successor, handing that out, and taking the
// old one away. One that is wrong then changes nothing.
func newCallers(path string, log *slog.Logger) (*renewal.Files[callers], error) {
	read := func() (callers, error) { return readCallers(path) }
	return renewal.Read([]string{path}, read, func(known callers, err error) {
		if err != nil {
			log.Error("tokens not read", "problem", err.Error())
		} else {
			log.Info("tokens read", "callers", len(known))
		}
	})
}

// readCallers reads the file once. The error is a [*SettingsError].
func readCallers(path string) (callers, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, &SettingsError{[]string{fmt.Sprintf("the tokens in %s cannot be read: %v", path, rootOf(err))}}
	}
	known := make(callers)
	for place, line := range strings.Split(string(content), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		found := tokenLine.FindStringSubmatch(line)
		var given []string
		if found != nil {
			given = strings.Split(found[2], ",")
		}
		if given == nil || slices.ContainsFunc(given, isNoScope) {
			return nil, &SettingsError{[]string{fmt.Sprintf(
				"%s, line %d: must be a name, scopes out of %s, and sha256: with 64 hexadecimal digits",
				path, place+1, strings.Join(scopeNames, ", "))}}
		}
		slices.Sort(given)
		known[found[3]] = caller{found[1], slices.Compact(given)}
	}
	return known, nil
}

// caller returns who calls, and notes him. Where callers are certified, a token is taken only from him whose certificate has
// its name, so that whoever is shown a token cannot pass it on as his. The error is a [*Refusal], UNAUTHENTICATED.
func (known callers) caller(ctx context.Context, call *Call, certified bool) (caller, error) {
	token, shown := tokenOf(ctx)
	if !shown {
		return caller{}, unauthenticated("the call carries no token")
	}
	digest := sha256.Sum256([]byte(token))
	who, isKnown := known[hex.EncodeToString(digest[:])]
	if !isKnown {
		return caller{}, unauthenticated("its token is not known here")
	}
	call.Note("caller", who.name)
	if !certified {
		return who, nil
	}
	if names := namesIn(ctx); !slices.Contains(names, who.name) {
		call.Note("certificate", strings.Join(names, ", "))
		return caller{}, unauthenticated(fmt.Sprintf("its token is for '%s', its certificate for somebody else", who.name))
	}
	return who, nil
}

// refuse says that a method is not for a caller: a [*Refusal], SCOPE_MISSING. It is nil where it is.
func (c caller) refuse(method string) error {
	if c.may(method) {
		return nil
	}
	given := strings.Join(c.scopes, ", ")
	return &Refusal{
		Reason:  ScopeMissing,
		Message: fmt.Sprintf("%s is not for the token of '%s', whose scopes are: %s", method, c.name, given),
		Facts:   Facts{"method": method, "caller": c.name, "given": given},
	}
}

func unauthenticated(problem string) *Refusal {
	return &Refusal{
		Reason:  Unauthenticated,
		Message: "this server wants to know who calls: " + problem,
		Facts:   Facts{"problem": problem},
	}
}

func tokenOf(ctx context.Context) (token string, shown bool) {
	for _, value := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		if len(value) >= len(scheme) && strings.EqualFold(value[:len(scheme)], scheme) {
			return strings.TrimSpace(value[len(scheme):]), true
		}
	}
	return "", false
}

// namesIn are those of the certificate that a caller has shown: its common name, or where it has none, the alternative ones.
func namesIn(ctx context.Context) (names []string) {
	from, _ := peer.FromContext(ctx)
	secure, isTLS := from.AuthInfo.(credentials.TLSInfo)
	if !isTLS || len(secure.State.PeerCertificates) == 0 {
		return nil
	}
	shown := secure.State.PeerCertificates[0]
	if shown.Subject.CommonName != "" {
		return []string{shown.Subject.CommonName}
	}
	names = append(slices.Clone(shown.DNSNames), shown.EmailAddresses...)
	for _, address := range shown.IPAddresses {
		names = append(names, address.String())
	}
	for _, uri := range shown.URIs {
		names = append(names, uri.String())
	}
	return names
}

// may says whether the contract lets one of the caller's scopes call a method. What it does not know is for operators.
func (c caller) may(method string) bool {
	isOf := func(service string) bool { return strings.HasPrefix(method, service) }
	if c.has(leylinev1.Scope_SCOPE_OPERATOR) || slices.ContainsFunc(forAnyToken, isOf) {
		return true
	}
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if _, isMethod := found.(protoreflect.MethodDescriptor); err != nil || !isMethod {
		return false
	}
	asked := proto.GetExtension(found.Options(), leylinev1.E_Scopes).([]leylinev1.Scope)
	return slices.ContainsFunc(asked, c.has)
}

func (c caller) has(scope leylinev1.Scope) bool { return slices.Contains(c.scopes, nameOf(scope)) }

func everyScope() (names []string) {
	values := leylinev1.Scope(0).Descriptor().Values()
	for place := range values.Len() {
		if scope := leylinev1.Scope(values.Get(place).Number()); scope != leylinev1.Scope_SCOPE_UNSPECIFIED {
			names = append(names, nameOf(scope))
		}
	}
	return names
}

func isNoScope(name string) bool { return !slices.Contains(scopeNames, name) }

func nameOf(scope leylinev1.Scope) string {
	return strings.ToLower(strings.TrimPrefix(scope.String(), "SCOPE_"))
}
