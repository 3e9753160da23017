package main

import (
	"os"
	"path/filepath"
	"testing"
)

// replace puts a file into the place of another, as those do who want nobody to read half of it.
func replace(t *testing.T, file, content string) {
	t.Helper()
	draft := file + ".draft"
	if err := os.WriteFile(draft, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(draft, file); err != nil {
		t.Fatal(err)
	}
}

func contentOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// copyOf is a file that stays when the other one is replaced.
func copyOf(t *testing.T, file string) string {
	t.Helper()
	return holding(t, contentOf(t, file))
}

// holding is a new file with a content.
func holding(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	replace(t, file, content)
	return file
}
