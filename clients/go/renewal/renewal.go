// Package renewal keeps what is made of files true to them, so that a certificate or a token is replaced without a restart.
package renewal

import (
	"os"
	"slices"
	"sync"
)

// Files are files, and what was made of them. Several goroutines may use it at once.
type Files[Made any] struct {
	names []string
	read  func() (Made, error)
	told  func(Made, error)

	mu      sync.Mutex
	made    Made
	seen    []os.FileInfo
	refused []os.FileInfo
}

// Read makes something of files by reading them. Whenever they have changed they are read anew, and told hears what was made
// or, once for each change, why they cannot be used. An empty name is that of no file. The error is read's.
func Read[Made any](names []string, read func() (Made, error), told func(Made, error)) (*Files[Made], error) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	f := &Files[Made]{names: names, read: read, told: told, seen: look(names)}
	var err error
	f.made, err = read()
	return f, err
}

// Now returns what the files make as they are. While they cannot be used it is what they made before: whoever replaces
// several does it one after the other.
func (f *Files[Made]) Now() Made {
	f.mu.Lock()
	defer f.mu.Unlock()
	// They are looked at first: what changes while they are read is another change.
	found := look(f.names)
	if unchanged(found, f.seen) {
		return f.made
	}
	// Also those that were refused before: a file does not change when its reader is let read it.
	made, err := f.read()
	if err == nil {
		f.made, f.seen, f.refused = made, found, nil
		f.told(made, nil)
	} else if !unchanged(found, f.refused) {
		f.refused = found
		f.told(made, err)
	}
	return f.made
}

// look finds the files; nil stands for one that is not there.
func look(names []string) []os.FileInfo {
	found := make([]os.FileInfo, len(names))
	for place, name := range names {
		if info, err := os.Stat(name); err == nil {
			found[place] = info
		}
	}
	return found
}

func unchanged(now, before []os.FileInfo) bool {
	return slices.EqualFunc(now, before, func(now, before os.FileInfo) bool {
		if now == nil || before == nil {
			return now == nil && before == nil
		}
		return os.SameFile(now, before) && now.Size() == before.Size() && now.ModTime().Equal(before.ModTime())
	})
}
