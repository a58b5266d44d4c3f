package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// imports is who may import whom: a package pattern on the left, what of ours
// it may import on the right. Packages that are not named may import nothing of
// ours; the program itself may import everything.
var imports = map[string][]string{
	"bot":                 {"sessions", "sandbox"},
	"webhooks":            {"sessions", "sandbox"},
	"web":                 {"sessions", "sandbox", "internal/github"},
	"internal/github":     {"sessions"},
	"internal/model":      {"sessions"},
	"sessions":            {"sandbox", "internal/seal"},
	"sandbox/local":       {"sandbox"},
	"sandbox/modal":       {"sandbox"},
	"sandbox/supervisor":  {"sandbox"},
	"sandbox/image":       {"sandbox"},
	"sandbox/sandboxtest": {"sandbox"},
	// Support for tests: imported by test files only, see testSupport.
	"internal/devpg/pgtest":           {"internal/devpg", "internal/postgres", "migrations"},
	"sandbox/supervisor/opencodetest": {"sandbox/image"},
	"sessions/sessionstest":           {"sessions", "sandbox", "internal/seal", "internal/devpg/pgtest"},
	"internal/practice/modal":         {"sandbox/local", "sandbox"},
	"internal/practice/practicetest":  {"internal/practice/slack", "internal/practice/github", "internal/practice/model"},
	"internal/practice/slack":         {},
	"internal/practice/github":        {},
	"internal/practice/model":         {},
	"internal/doors":                  {},
	"internal/devpg":                  {},
	"internal/postgres":               {},
	"internal/seal":                   {},
	"migrations":                      {},
	"sandbox":                         {},
}

// testSupport may be imported by test files of any package, and by each other.
var testSupport = []string{
	"migrations", "internal/devpg", "internal/practice/", "sandbox/sandboxtest",
	"sandbox/supervisor/opencodetest", "sandbox/image", "sandbox", "sessions/sessionstest",
	"sessions", "internal/seal", "sandbox/local",
}

func TestPackagesImportOnlyWhatTheDesignAllows(t *testing.T) {
	t.Parallel()
	seen := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || d.Name() == "testdata" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		seen++
		checkImports(t, filepath.ToSlash(name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Errorf("only %d Go files were seen: the walk is broken", seen)
	}
}

func checkImports(t *testing.T, name string) {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	from := path.Dir(name)
	if from == "." {
		return
	}
	for _, spec := range file.Imports {
		target, _ := strconv.Unquote(spec.Path.Value)
		target, ours := strings.CutPrefix(target, "openinspect/")
		if !ours || target == from || mayImport(from, target, strings.HasSuffix(name, "_test.go")) {
			continue
		}
		t.Errorf("%s may not import %s", name, target)
	}
}

func mayImport(from, target string, test bool) bool {
	allowed, named := imports[from]
	if !named {
		return false
	}
	for _, a := range allowed {
		if a == target {
			return true
		}
	}
	if !test {
		return false
	}
	for _, support := range testSupport {
		if target == support || strings.HasPrefix(target, strings.TrimSuffix(support, "/")+"/") {
			return true
		}
	}
	return false
}
