package modal

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Kinds of kept objects, and the folders that hold one file for each.
const (
	kindApps      = "apps"
	kindSecrets   = "secrets"
	kindImages    = "images"
	kindSandboxes = "sandboxes"
)

// save writes one object before its change is answered. A reader sees the old
// or the new state.
func (s *Server) save(kind, id string, value any) error {
	raw, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return fmt.Errorf("saving %s: %w", id, err)
	}
	return replaceFile(filepath.Join(s.dir, kind, id+".json"), raw)
}

func (s *Server) forget(kind, id string) error {
	err := os.Remove(filepath.Join(s.dir, kind, id+".json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting %s: %w", id, err)
	}
	return nil
}

func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // nothing is there after the rename
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// load reads what an earlier process kept.
func (s *Server) load() error {
	if err := s.loadKey(); err != nil {
		return err
	}
	err := errors.Join(
		loadAll(s.dir, kindApps, func(a *App) { s.apps[a.ID] = a }),
		loadAll(s.dir, kindSecrets, func(k *secret) { s.secrets[k.ID] = k }),
		loadAll(s.dir, kindImages, func(i *Image) { s.images[i.ID] = newImage(*i) }),
		loadAll(s.dir, kindSandboxes, func(b *Sandbox) {
			s.sandboxes[b.ID] = newBox(*b)
			if b.Created.After(s.lastCreated) {
				s.lastCreated = b.Created
			}
		}),
	)
	return err
}

func (s *Server) loadKey() error {
	path := filepath.Join(s.dir, "key")
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = []byte(rand.Text() + rand.Text())
		err = replaceFile(path, key)
	}
	s.key = key
	return err
}

func loadAll[T any](dir, kind string, add func(*T)) error {
	entries, err := os.ReadDir(filepath.Join(dir, kind))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, kind, e.Name())
		if !strings.HasSuffix(path, ".json") {
			os.Remove(path) // half written by a process that died
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		value := new(T)
		if err := json.Unmarshal(raw, value); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		add(value)
	}
	return nil
}
