// Package golden reads proto/testdata, which holds every language to the same answers.
package golden

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var folder = func() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../../../../proto/testdata")
}()

// Files returns the paths of the files that match a pattern below proto/testdata. There is at least one.
func Files(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("proto/testdata has no %s: %v", pattern, err)
	}
	return files
}

// Read reads a file of JSON.
func Read(t *testing.T, path string, content any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, content); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// Parse reads a message from its JSON form.
func Parse(t *testing.T, text json.RawMessage, message proto.Message) {
	t.Helper()
	if err := protojson.Unmarshal(text, message); err != nil {
		t.Fatal(err)
	}
}
