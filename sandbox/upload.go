package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Files that the agent shows people do not pass the bridge: they are larger than
// its messages, and would hold up what comes after them. The supervisor puts each
// to UploadPath of the machine listener with its token, under an id of its own,
// and then calls a tool that names the id. Putting the same id again changes nothing.

// UploadPath is followed by the file's id; its name is the parameter "name".
const UploadPath = "/uploads/"

// MaxUpload bounds one file, in bytes.
const MaxUpload = 20 << 20

// uploadTime bounds one file's way, over a slow line too.
const uploadTime = 2 * time.Minute

// Upload is a file on its way.
type Upload struct {
	ID   string // a UUID
	Name string // without a folder
	Data []byte
}

// RefusedUpload is an error whose text says to the agent why a file is not taken
// and what to do.
type RefusedUpload struct{ Text string }

func (r *RefusedUpload) Error() string { return r.Text }

// uploadsAtOnce is how many files one sandbox may send at the same time: each is in
// memory as a whole.
const uploadsAtOnce = 2

// UploadHandler is the control plane's end: it gives each file to take, with the
// token that came in TokenHeader. Before the file is read, admit checks the token. Its
// refusals and take's are *RefusedUpload.
func UploadHandler(admit func(ctx context.Context, token string) error, take func(ctx context.Context, token string, u Upload) error) http.Handler {
	var mu sync.Mutex
	sending := map[string]int{} // by token
	begin := func(token string, by int) bool {
		mu.Lock()
		defer mu.Unlock()
		if sending[token] += by; sending[token] == 0 {
			delete(sending, token)
		}
		return sending[token] <= uploadsAtOnce
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get(TokenHeader)
		w.Header().Set("Connection", "close") // a refusal does not wait for the file
		if r.Method != http.MethodPut || token == "" {
			http.Error(w, "a file is put here, with the sandbox's token", http.StatusUnauthorized)
			return
		}
		if err := admit(r.Context(), token); err != nil {
			refuseUpload(w, err)
			return
		}
		defer begin(token, -1)
		if !begin(token, 1) {
			http.Error(w, "Too many files are sent at once: send one after the other.", http.StatusTooManyRequests)
			return
		}
		w.Header().Del("Connection")
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(uploadTime)); err != nil {
			return // its connection is gone
		}
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxUpload))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			http.Error(w, TooLargeUpload, http.StatusRequestEntityTooLarge)
			return
		case err != nil:
			http.Error(w, "the file did not arrive whole", http.StatusBadRequest)
			return
		}
		err = take(r.Context(), token, Upload{ID: strings.TrimPrefix(r.URL.Path, UploadPath), Name: r.URL.Query().Get("name"), Data: data})
		if err != nil {
			refuseUpload(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func refuseUpload(w http.ResponseWriter, err error) {
	if refused, ok := errors.AsType[*RefusedUpload](err); ok {
		http.Error(w, refused.Text, http.StatusUnprocessableEntity)
		return
	}
	http.Error(w, "the control plane cannot take the file at the moment", http.StatusServiceUnavailable)
}

// TooLargeUpload is what the agent reads of a file over MaxUpload.
const TooLargeUpload = "The file is larger than the 20 MB that are taken: make it smaller, or show a part of it."

// Put sends a file to the control plane. A *RefusedUpload is final.
func (c Control) Put(ctx context.Context, token string, u Upload) error {
	ctx, cancel := context.WithTimeout(ctx, uploadTime)
	defer cancel()
	transport := c.Transport()
	defer transport.CloseIdleConnections()
	to := c.URL.JoinPath(UploadPath, u.ID)
	to.RawQuery = url.Values{"name": {u.Name}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, to.String(), bytes.NewReader(u.Data))
	if err != nil {
		return err
	}
	req.Header.Set(TokenHeader, token)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("sending a file to the control plane: %w", err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	switch {
	case err != nil:
		return fmt.Errorf("sending a file to the control plane: %w", err)
	case resp.StatusCode == http.StatusUnprocessableEntity, resp.StatusCode == http.StatusRequestEntityTooLarge,
		resp.StatusCode == http.StatusTooManyRequests:
		return &RefusedUpload{strings.TrimSpace(string(said))}
	case resp.StatusCode != http.StatusNoContent:
		return fmt.Errorf("sending a file to the control plane: it answered %s: %s", resp.Status, strings.TrimSpace(string(said)))
	}
	return nil
}
