package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"openinspect/sandbox"
)

// origin says of which box a filesystem was saved, beside its two directories,
// where no box sees it.
type origin struct {
	Box string    `json:"box"`
	At  time.Time `json:"at"`
}

const originFile = "saved.json"

func writeOrigin(dir, box string) error {
	raw, err := json.Marshal(origin{Box: box, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, originFile), raw, 0o644) // copied by the box's user
}

// ListSaved implements sandbox.Lister. Of one that was saved before origins were
// written, neither box nor time is known.
func (p *Provider) ListSaved(ctx context.Context) iter.Seq2[sandbox.Saved, error] {
	return func(yield func(sandbox.Saved, error) bool) {
		all, err := p.saved(ctx)
		if err != nil {
			yield(sandbox.Saved{}, fmt.Errorf("listing saved filesystems: %w", err))
			return
		}
		for _, s := range all {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// saved reads the directory of saved filesystems. Links are older names.
func (p *Provider) saved(ctx context.Context) ([]sandbox.Saved, error) {
	if err := p.tidy(ctx); err != nil { // gives back what dead boxes continued
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(p.dir, "saved"))
	if err != nil {
		return nil, err
	}
	var all []sandbox.Saved
	for _, e := range entries {
		ref, err := parseRef(sandbox.Ref(e.Name()))
		if err != nil || !e.IsDir() {
			continue
		}
		var from origin
		raw, err := os.ReadFile(filepath.Join(p.savedDir(ref), originFile))
		if err == nil {
			err = json.Unmarshal(raw, &from)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading where %s is from: %w", ref.name, err)
		}
		all = append(all, sandbox.Saved{Ref: sandbox.Ref(ref.name), Box: from.Box, Parked: ref.kind == kindParked, At: from.At})
	}
	return all, nil
}
