package leyline_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	leyline "leyline/clients/go"
)

// write puts a file into the place of another.
func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	draft := name + ".draft"
	if err := os.WriteFile(draft, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(draft, name); err != nil {
		t.Fatal(err)
	}
}

func TestACallCarriesTheTokenThatTheFileHoldsThen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "first\n")
	server := &trainer{}
	client := dial(t, serve(t, "tcp", "127.0.0.1:0", server).String(), leyline.Credentials{Token: file})
	for _, c := range []struct{ content, carried string }{
		{"first\n", "first"},
		{"the second\n", "first"}, // no token: RFC 6750 has no blank in one
		{"second==", "second=="},
		{"", "second=="},
		{"third", "third"},
	} {
		write(t, file, c.content)
		if _, err := client.Get(t.Context(), "run"); err != nil {
			t.Fatal(err)
		}
		if len(server.heard) != 1 || server.heard[0] != "Bearer "+c.carried {
			t.Errorf("of %q came %q", c.content, server.heard)
		}
	}
}

func TestAServerOnThisMachineIsShownTheTokenByWhichItKnowsItsUser(t *testing.T) {
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	server := &trainer{}
	path := filepath.Join(t.TempDir(), "socket")
	serve(t, "unix", path, server)
	given := filepath.Join(t.TempDir(), "token")
	write(t, given, "given")
	for _, c := range []struct {
		credentials leyline.Credentials
		own         string
		carried     string
	}{
		{leyline.Credentials{}, "", ""},
		{leyline.Credentials{}, "mine", "Bearer mine"},
		{leyline.Credentials{Token: given}, "mine", "Bearer given"},
	} {
		if c.own != "" {
			write(t, filepath.Join(state, "leyline", "token"), c.own)
		}
		if _, err := dial(t, "unix:"+path, c.credentials).Get(t.Context(), "run"); err != nil {
			t.Fatal(err)
		}
		if carried := strings.Join(server.heard, ", "); carried != c.carried {
			t.Errorf("%+v: %q came", c, carried)
		}
	}
	connection, err := leyline.Dial("192.0.2.1:50051", leyline.Credentials{})
	if err != nil {
		t.Fatalf("it is for servers here: %v", err)
	}
	connection.Close()
}

func TestCredentialsThatCannotBeUsedAreRefusedBeforeAnythingIsCalled(t *testing.T) {
	folder := t.TempDir()
	token, nowhere := filepath.Join(folder, "token"), filepath.Join(folder, "nowhere")
	write(t, token, "some.token")
	for name, c := range map[string]struct {
		address     string
		credentials leyline.Credentials
		says        string
	}{
		"a token in plain text":       {"192.0.2.1:50051", leyline.Credentials{Token: token}, "the token in " + token + " would go to 192.0.2.1:50051 in plain text"},
		"to a name":                   {"here:50051", leyline.Credentials{Token: token}, "in plain text"},
		"to a name that is to be dns": {"dns:///127.0.0.1:50051", leyline.Credentials{Token: token}, "in plain text"},
		"no token":                    {"127.0.0.1:50051", leyline.Credentials{Token: nowhere}, nowhere},
		"no authority":                {"127.0.0.1:50051", leyline.Credentials{CA: nowhere}, nowhere},
		"an authority that is none":   {"127.0.0.1:50051", leyline.Credentials{CA: token}, token + " holds no PEM certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := leyline.Dial(c.address, c.credentials); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestATokenGoesToThisMachineInPlainText(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "some.token")
	for _, address := range []string{"127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/run/leyline.sock"} {
		connection, err := leyline.Dial(address, leyline.Credentials{Token: token})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		connection.Close()
	}
}
