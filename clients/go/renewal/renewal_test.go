package renewal_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"leyline/clients/go/renewal"
)

// pair is what two files make, if they belong together: their one content.
type pair struct {
	first, second string
	told          []string
}

func (p *pair) read() (string, error) {
	first, err := os.ReadFile(p.first)
	if err != nil {
		return "", err
	}
	if second, err := os.ReadFile(p.second); err != nil || string(first) != string(second) {
		return "", errors.New(string(first) + " and " + string(second) + " do not fit")
	}
	return string(first), nil
}

func (p *pair) hear(made string, err error) {
	if errors.Is(err, os.ErrNotExist) {
		made = "not there"
	} else if err != nil {
		made = err.Error()
	}
	p.told = append(p.told, made)
}

// replace puts a new file in the place of another, as those do who want nobody to read half of it.
func replace(t *testing.T, name, content string) {
	t.Helper()
	draft := name + ".draft"
	if err := os.WriteFile(draft, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(draft, name); err != nil {
		t.Fatal(err)
	}
}

func TestWhatFilesMakeChangesWithThemAndStaysWhileTheyCannotBeUsed(t *testing.T) {
	folder := t.TempDir()
	p := &pair{first: filepath.Join(folder, "first"), second: filepath.Join(folder, "second")}
	if _, err := renewal.Read([]string{p.first, p.second}, p.read, p.hear); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files that are not there: got %v", err)
	}
	replace(t, p.first, "one")
	replace(t, p.second, "one")
	files, err := renewal.Read([]string{p.first, "", p.second}, p.read, p.hear)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		what   string
		change func()
		now    string
	}{
		{"nothing", func() {}, "one"},
		{"the first", func() { replace(t, p.first, "two") }, "one"},
		{"nothing again", func() {}, "one"},
		{"the second, too", func() { replace(t, p.second, "two") }, "two"},
		{"one is gone", func() { os.Remove(p.first) }, "two"},
		{"it is back", func() { replace(t, p.first, "two") }, "two"},
	} {
		step.change()
		for range 2 {
			if now := files.Now(); now != step.now {
				t.Errorf("%s: now it is %q", step.what, now)
			}
		}
	}
	if want := []string{"two and one do not fit", "two", "not there", "two"}; !slices.Equal(p.told, want) {
		t.Errorf("told %q", p.told)
	}
}

func TestAFileThatCouldNotBeReadIsReadOnceItCan(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	replace(t, name, "one")
	// Root may read whatever it likes, so that the mode of a file is none to test with.
	allowed, told := true, 0
	read := func() (string, error) {
		if !allowed {
			return "", os.ErrPermission
		}
		content, err := os.ReadFile(name)
		return string(content), err
	}
	files, err := renewal.Read([]string{name}, read, func(string, error) { told++ })
	if err != nil {
		t.Fatal(err)
	}
	allowed = false
	replace(t, name, "two")
	for range 3 {
		if now := files.Now(); now != "one" {
			t.Errorf("now it is %q", now)
		}
	}
	allowed = true
	if now := files.Now(); now != "two" || told != 2 {
		t.Errorf("now it is %q, told %d times", now, told)
	}
}
