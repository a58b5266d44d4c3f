package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"

	"openinspect/internal/doors"
	"openinspect/sandbox"
)

// executable is the file that this process runs. Sandboxes that do not see it fetch
// it from the machine listener, and so run the supervisor that belongs to the
// control plane that started them.
type executable struct {
	file   *os.File // of the process itself: what is put in its place later is another program
	size   int64
	sha256 string // in hexadecimal
	zipped func() ([]byte, error)
}

func openExecutable() (*executable, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("opening the program for sandboxes: %w", err)
	}
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the program for sandboxes: %w", err), f.Close())
	}
	p := &executable{file: f, size: size, sha256: hex.EncodeToString(sum.Sum(nil))}
	p.zipped = sync.OnceValues(p.zip)
	return p, nil
}

// Close lets go of the file.
func (p *executable) Close() error { return p.file.Close() }

func (p *executable) reader() io.Reader { return io.NewSectionReader(p.file, 0, p.size) }

// zip compresses the program, to a third; it is kept, because many sandboxes want it.
func (p *executable) zip() ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(z, p.reader()); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// handler serves the program to whoever has a sandbox's token. Of another version
// it says so: during an upgrade another replica may have it.
func (p *executable) handler(auth doors.Authenticator, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := auth.Authenticate(r.Context(), r.Header.Get(sandbox.TokenHeader))
		switch {
		case errors.Is(err, doors.ErrUnknownToken):
			http.Error(w, "this sandbox's credential is not known, or no longer", http.StatusUnauthorized)
			return
		case err != nil:
			log.Error("sandbox token not checked", "path", r.URL.Path, "err", err)
			http.Error(w, "the control plane cannot check this sandbox's credential at the moment", http.StatusServiceUnavailable)
			return
		case r.PathValue("sha256") != p.sha256:
			http.Error(w, "this control plane runs another version: "+p.sha256, http.StatusNotFound)
			return
		}
		if err := p.send(w, r); err != nil && r.Context().Err() == nil {
			log.Warn("the program was not sent to a sandbox", "err", err)
		}
	})
}

func (p *executable) send(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Vary", "Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Length", fmt.Sprint(p.size))
		_, err := io.Copy(w, p.reader())
		return err
	}
	zipped, err := p.zipped()
	if err != nil {
		http.Error(w, "the program cannot be read", http.StatusInternalServerError)
		return err
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Set("Content-Length", fmt.Sprint(len(zipped)))
	_, err = w.Write(zipped)
	return err
}
