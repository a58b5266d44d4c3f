package devpg

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// elsewhere is where the data lies when the account cannot reach the folder.
const elsewhere = "/var/lib/openinspect"

// The files that tie a folder to its place elsewhere.
const (
	marker = "location" // in the folder: where its data lies instead
	origin = "origin"   // in the place: the folder whose data lies there
)

// moveElsewhere returns the place that stands for the folder, making it.
func moveElsewhere(dir string, log *slog.Logger) (string, error) {
	place, err := readOrMark(filepath.Join(dir, marker))
	if err != nil {
		return "", err
	}
	log.Info("the database's account cannot enter its folder; the data lies elsewhere", "folder", dir, "data", place)
	if err := os.MkdirAll(place, 0o711); err != nil {
		return "", fmt.Errorf("the account of Postgres cannot enter %s, and %s cannot be made (%w): choose a data folder outside of a private home, or set DATABASE_URL", dir, place, err)
	}
	if err := os.WriteFile(filepath.Join(place, origin), []byte(dir+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("noting whose data lies in %s: %w", place, err)
	}
	sweepElsewhere(log)
	return place, nil
}

// readOrMark returns the path that the marker names, making a new one first.
func readOrMark(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		name := strings.TrimSpace(string(data))
		if filepath.Dir(name) != elsewhere {
			return "", fmt.Errorf("%s names %q, which is not in %s: delete the file to begin with a new database", path, name, elsewhere)
		}
		return name, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading where the database's data lies: %w", err)
	}
	name := filepath.Join(elsewhere, "postgres-"+strings.ToLower(rand.Text()[:12]))
	if err := os.WriteFile(path, []byte(name+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("noting where the database's data lies: %w", err)
	}
	return name, nil
}

// sweepElsewhere removes the data of temporary folders that are gone. That it
// cannot is no reason not to start.
func sweepElsewhere(log *slog.Logger) {
	places, err := filepath.Glob(filepath.Join(elsewhere, "postgres-*"))
	if err != nil {
		return // the pattern is well formed
	}
	for _, place := range places {
		if !abandoned(place) {
			continue
		}
		if err := os.RemoveAll(place); err != nil {
			log.Warn("removing the data of a temporary folder that is gone", "data", place, "err", err)
		}
	}
}

// abandoned says whether nobody will come for the data in the place. Only folders
// below the system's temporary directory are taken to be gone for ever: another
// one may be away for a while, with the disk that it is on.
func abandoned(place string) bool {
	text, err := os.ReadFile(filepath.Join(place, origin))
	if err != nil {
		return false // it is being made, or is not ours
	}
	dir := strings.TrimSpace(string(text))
	below, err := filepath.Rel(os.TempDir(), dir)
	if err != nil || !filepath.IsLocal(below) {
		return false
	}
	named, err := os.ReadFile(filepath.Join(dir, marker))
	if err != nil && !errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(named)) == place {
		return false
	}
	data := filepath.Join(place, "data")
	p, err := readPostmaster(data)
	return err != nil || !serves(p.pid, data)
}
