package sandbox

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// readBody tells when it begins to be read.
type readBody struct {
	io.ReadCloser
	reading func()
}

// Read implements io.Reader.
func (b *readBody) Read(p []byte) (int, error) {
	b.reading()
	return b.ReadCloser.Read(p)
}

// uploads is a control plane that knows one token, says when it begins to read a
// file, and gives what it takes to took.
func uploads(t *testing.T) (url string, reading chan struct{}, took chan Upload) {
	t.Helper()
	took, reading = make(chan Upload, 8), make(chan struct{}, 8)
	handler := UploadHandler(func(_ context.Context, token string) error {
		if token != "known" {
			return &RefusedUpload{"this token is not known"}
		}
		return nil
	}, func(_ context.Context, _ string, u Upload) error {
		took <- u
		return nil
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &readBody{r.Body, sync.OnceFunc(func() { reading <- struct{}{} })}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + UploadPath, reading, took
}

// begin sends the head of an upload. Its file comes from the pipe.
func begin(t *testing.T, url, token, id string) (file *io.PipeWriter, answer chan string) {
	t.Helper()
	body, file := io.Pipe()
	t.Cleanup(func() { file.CloseWithError(io.ErrClosedPipe) })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+id+"?name=a.txt", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(TokenHeader, token)
	answer = make(chan string, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		said, _ := io.ReadAll(resp.Body) // what is there of it is compared
		answer <- fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(said)))
	}()
	return file, answer
}

func TestAFileIsNotReadBeforeItsTokenIsKnown(t *testing.T) {
	t.Parallel()
	url, _, took := uploads(t)
	_, answer := begin(t, url, "stolen", "1") // and nothing of the file ever comes
	if got := <-answer; got != "422 this token is not known" {
		t.Errorf("the answer is %q", got)
	}
	if len(took) != 0 {
		t.Errorf("%d files were taken", len(took))
	}
}

func TestASandboxSendsTwoFilesAtATime(t *testing.T) {
	t.Parallel()
	url, reading, took := uploads(t)
	var files []*io.PipeWriter
	var answers []chan string
	for i := range uploadsAtOnce {
		file, answer := begin(t, url, "known", fmt.Sprint(i))
		<-reading
		files, answers = append(files, file), append(answers, answer)
	}
	_, refused := begin(t, url, "known", "third")
	if got := <-refused; !strings.HasPrefix(got, "429 Too many files") {
		t.Errorf("the third is answered with %q", got)
	}
	for i, file := range files {
		_, _ = io.WriteString(file, "text") // its answer says how it went
		file.Close()
		if got := <-answers[i]; got != "204 " {
			t.Errorf("file %d is answered with %q", i, got)
		}
		if u := <-took; string(u.Data) != "text" || u.Name != "a.txt" {
			t.Errorf("taken is %+v", u)
		}
	}
	file, later := begin(t, url, "known", "later")
	file.Close()
	if got := <-later; got != "204 " {
		t.Errorf("a file after them is answered with %q", got)
	}
}
