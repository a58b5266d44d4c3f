package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed static
var staticFiles embed.FS

//go:embed templates
var templateFiles embed.FS

// assets serves the style sheet, the scripts and the mark. All of them live in
// one folder that is named after their common hash: browsers keep them for
// ever, and modules can import each other by relative names.
type assets struct {
	base  string // /static/<hash>/
	files map[string][]byte
}

func newAssets() (*assets, error) {
	a := &assets{files: make(map[string][]byte)}
	sum := sha256.New()
	err := fs.WalkDir(staticFiles, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := staticFiles.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %d\n", name, len(data))
		sum.Write(data)
		a.files[path.Base(name)] = data
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading embedded files: %w", err)
	}
	a.base = "/static/" + hex.EncodeToString(sum.Sum(nil)[:8]) + "/"
	return a, nil
}

// url returns the address of a file.
func (a *assets) url(name string) (string, error) {
	if _, ok := a.files[name]; !ok {
		return "", fmt.Errorf("there is no static file %s", name)
	}
	return a.base + name, nil
}

func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, a.base)
	data, known := a.files[name]
	if !ok || !known {
		http.Error(w, "There is no such file.", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(data) // who asked may be gone
}
