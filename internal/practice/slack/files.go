package slack

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxFile is the largest file that can be uploaded.
const maxFile = 64 << 20

func (s *Server) fileJSON(id string) object {
	f := s.files[id]
	if f == nil {
		return object{"id": id, "mode": "tombstone"}
	}
	u := s.base + "/files/" + f.ID + "/" + url.PathEscape(f.Name)
	o := object{
		"id": f.ID, "name": f.Name, "title": f.Title, "user": f.User, "mimetype": f.Mimetype, "size": f.Size,
		"filetype": strings.TrimPrefix(filepath.Ext(f.Name), "."), "pretty_type": strings.ToUpper(strings.TrimPrefix(filepath.Ext(f.Name), ".")),
		"created": f.Created, "timestamp": f.Created, "mode": "hosted", "is_external": false, "editable": false, "is_public": true,
		"url_private": u, "url_private_download": u + "?download=1", "permalink": u, "channels": orEmpty(f.Channels),
		"user_team": s.id.TeamID, "file_access": "visible",
	}
	if f.Alt != "" {
		o["alt_txt"] = f.Alt
	}
	return o
}

func (s *Server) filesGetUploadURL(c *call) (object, error) {
	size, err := strconv.ParseInt(c.args["length"], 10, 64)
	name := filepath.Base(c.args["filename"])
	switch {
	case err != nil || size <= 0 || name == "." || name == "/":
		return nil, failWith("invalid_arguments", "[ERROR] length must be positive and filename a name")
	case size > maxFile:
		return nil, fail("file_upload_size_restricted")
	case len(c.args["alt_txt"]) > 1000:
		return nil, fail("alt_txt_too_large")
	}
	kind := mime.TypeByExtension(filepath.Ext(name))
	if kind == "" {
		kind = "application/octet-stream"
	}
	f := &file{
		ID: newID("F"), Name: name, Title: name, User: c.user, Mimetype: kind, Alt: c.args["alt_txt"],
		Size: size, Created: time.Now().Unix(), Order: s.newTS(),
	}
	s.files[f.ID] = f
	s.journal.put("file", f.ID, f)
	s.pruneFiles()
	return object{"upload_url": s.base + "/files/upload/" + f.ID, "file_id": f.ID}, nil
}

// pruneFiles lets the oldest files go beyond the bounds.
func (s *Server) pruneFiles() {
	list := slices.SortedFunc(maps.Values(s.files), func(a, b *file) int { return cmp.Compare(a.Order, b.Order) })
	var bytes int64
	for _, f := range list {
		bytes += f.Size
	}
	for i := 0; len(list)-i > maxFiles || bytes > maxFileBytes; i++ {
		old := list[i]
		bytes -= old.Size
		delete(s.files, old.ID)
		s.journal.remove("file", old.ID)
		if err := os.Remove(s.filePath(old.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("removing an old file", "err", err)
		}
	}
}

func (s *Server) filePath(id string) string { return filepath.Join(s.dir, "files", id) }

// serveUpload takes a file's bytes, raw or as the form's field "file". The
// address is the secret, as Slack's upload addresses are.
func (s *Server) serveUpload(w http.ResponseWriter, r *http.Request) {
	f, known := s.fileByID(r.PathValue("id"))
	if !known || f.Uploaded {
		http.Error(w, "unknown upload", http.StatusNotFound)
		return
	}
	var body io.Reader = http.MaxBytesReader(w, r.Body, maxFile+1<<20)
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		part, _, err := r.FormFile("file")
		if err != nil {
			http.Error(w, "no field named file", http.StatusBadRequest)
			return
		}
		defer part.Close()
		body = part
	}
	n, err := writeFile(s.filePath(f.ID), body)
	if err != nil || n != f.Size {
		http.Error(w, fmt.Sprintf("got %d bytes, %d were announced", n, f.Size), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if kept := s.files[f.ID]; kept != nil {
		kept.Uploaded = true
		s.journal.put("file", f.ID, kept)
	}
	fmt.Fprintf(w, "OK - %d", n)
}

// fileByID returns what is known of a file, as a copy.
func (s *Server) fileByID(id string) (file, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, known := s.files[id]
	if !known {
		return file{}, false
	}
	return *f, true
}

func writeFile(path string, from io.Reader) (int64, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, from)
	return n, errors.Join(err, f.Close())
}

func (s *Server) filesComplete(c *call) (object, error) {
	var given []struct{ ID, Title string }
	if json.Unmarshal([]byte(c.args["files"]), &given) != nil || len(given) == 0 {
		return nil, failWith("invalid_arguments", "[ERROR] files must be a list of {id, title}")
	}
	m := &message{User: c.user, Subtype: "file_share", Text: c.args["initial_comment"]}
	if c.bot {
		m.BotID = s.id.BotID
	}
	var out []object
	for _, g := range given {
		f := s.files[g.ID]
		if f == nil || !f.Uploaded || f.User != c.user {
			return nil, fail("file_not_found")
		}
		if g.Title != "" {
			f.Title = g.Title
		}
		m.Files = append(m.Files, f.ID)
	}
	if err := s.shareFiles(c, m); err != nil {
		return nil, err
	}
	for _, id := range m.Files {
		s.journal.put("file", id, s.files[id])
		out = append(out, s.fileJSON(id))
	}
	return object{"files": out}, nil
}

// shareFiles posts m into the channels that the call names; into none is
// allowed, too.
func (s *Server) shareFiles(c *call, m *message) error {
	channels := c.args.list("channels")
	if id := c.args["channel_id"]; id != "" {
		channels = append(channels, id)
	}
	if len(channels) > 100 {
		return fail("channels_limit_exceeded")
	}
	if raw := c.args["blocks"]; raw != "" {
		var err error
		if m.Blocks, err = checkBlocks(raw, inMessage); err != nil {
			return err
		}
	}
	for _, id := range channels {
		c.args["channel_id"] = id
		in, err := s.placeToPost(c, "channel_id")
		if err != nil {
			return err
		}
		one := *m
		if err := s.inThread(in, &one, c.args["thread_ts"]); err != nil {
			return err
		}
		for _, f := range m.Files {
			if !slices.Contains(s.files[f].Channels, in.ID) {
				s.files[f].Channels = append(s.files[f].Channels, in.ID)
			}
		}
		s.post(in, &one)
	}
	return nil
}

func (s *Server) filesInfo(c *call) (object, error) {
	if s.files[c.args["file"]] == nil {
		return nil, fail("file_not_found")
	}
	return object{"file": s.fileJSON(c.args["file"]), "comments": []object{}}, nil
}

// serveFile gives a file to the app, to people's tokens and to a browser that
// is signed in. Others are sent to the sign-in page, as by Slack.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	allowed := token == s.id.BotToken || s.tokenPerson(token) != nil || s.signedIn(r) != nil
	s.mu.Unlock()
	f, known := s.fileByID(r.PathValue("id"))
	switch {
	case !allowed:
		http.Redirect(w, r, "/?redir="+url.QueryEscape(r.URL.Path), http.StatusFound)
		return
	case !known || !f.Uploaded:
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.Mimetype)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	if !strings.HasPrefix(f.Mimetype, "image/") || r.FormValue("download") != "" {
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": f.Name}))
	}
	http.ServeFile(w, r, s.filePath(f.ID))
}
