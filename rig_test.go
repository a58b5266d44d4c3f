package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
)

// rig is a whole practice that runs for one test: the stand-ins in this
// process, the control plane as a child that may be killed, sandboxes and
// OpenCode for real. Tests use it as people and tools do: over HTTP, with what
// practice.json says.
type rig struct {
	testing.TB
	practice *practice
	info     practiceInfo
	db       *sqlx.DB
	stop     func()
}

// program builds the program once for all tests, with the race detector.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "openinspect-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "openinspect")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// testLog keeps what the parts say, and shows it when the test fails.
type testLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *testLog) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf.Bytes()[max(0, l.buf.Len()-n):])
}

// startRig starts a practice in a folder of its own; change may set what
// differs. It is ended, and its sandboxes with it, when the test ends.
func startRig(t testing.TB, change func(*practice)) *rig {
	t.Helper()
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "inspect-")
	if err != nil {
		t.Fatal(err)
	}
	log := &testLog{}
	p := &practice{
		log: slog.New(slog.NewTextHandler(log, nil)), out: log, childOut: log, dir: dir, listen: "127.0.0.1:0",
		binary: binary, extraEnv: []string{"LOG_LEVEL=debug", "MAX_SPARES=0"}, // no more boxes than a test is about
	}
	// What was said while nobody listened comes again, sooner than from Slack itself.
	p.slackOpt.Retries = []time.Duration{0, 3 * time.Second, 10 * time.Second, 30 * time.Second}
	if change != nil {
		change(p)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log:\n%s", log.tail(20000))
		}
		endSandboxes(dir)
		os.RemoveAll(dir)
	})
	r := &rig{TB: t, practice: p}
	r.start()
	t.Cleanup(func() {
		if t.Failed() {
			r.logEvents()
		}
		r.stop()
	})
	return r
}

// logEvents shows what happened last in all sessions.
func (r *rig) logEvents() {
	var last []string
	err := r.db.Select(&last, `select to_char(created_at, 'HH24:MI:SS.MS ') || session_id || ' ' || seq || ' ' || kind || ' ' || left(body::text, 300)
		from events order by created_at desc, seq desc limit 150`)
	slices.Reverse(last)
	r.Logf("the last events (%v):\n%s", err, strings.Join(last, "\n"))
}

// start runs the practice until stop, and waits for practice.json.
func (r *rig) start() {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.practice.run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		if r.db != nil {
			r.db.Close()
		}
		cancel()
		if err := <-done; err != nil {
			r.Errorf("practice ended with: %v", err)
		}
	})
	deadline := time.After(2 * time.Minute)
	for {
		data, err := os.ReadFile(r.practice.jsonPath())
		if err == nil {
			if err := json.Unmarshal(data, &r.info); err != nil {
				r.Fatalf("practice.json: %v", err)
			}
			break
		}
		select {
		case err := <-done:
			done <- err
			r.Fatalf("practice did not start: %v", err)
		case <-deadline:
			r.Fatal("practice was not ready within 2 minutes")
		case <-time.After(10 * time.Millisecond):
		}
	}
	db, err := sqlx.Open("postgres", r.practice.cluster.URL)
	if err != nil {
		r.Fatal(err)
	}
	r.db = db
}

// eventually waits until f returns nil.
func (r *rig) eventually(what string, within time.Duration, f func() error) {
	r.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond) // the pause between two looks, not the wait itself
	}
}

// slackMessage is a message as conversations.replies shows it.
type slackMessage struct {
	TS       string          `json:"ts"`
	User     string          `json:"user"`
	BotID    string          `json:"bot_id"`
	Text     string          `json:"text"`
	Blocks   json.RawMessage `json:"blocks"`
	Metadata struct {
		EventType string `json:"event_type"`
		Payload   struct {
			Key string `json:"key"`
		} `json:"event_payload"`
	} `json:"metadata"`
}

// shows is all that a person reads in the message.
func (m slackMessage) shows() string { return m.Text + "\n" + readable.Replace(string(m.Blocks)) }

// readable undoes what JSON for browsers escapes.
var readable = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\"`, `"`)

// slack calls a method of the Web API.
func (r *rig) slack(token, method string, args url.Values, into any) error {
	req, err := http.NewRequest(http.MethodPost, r.info.Slack.APIURL+method, strings.NewReader(args.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("%s: status %d: %w", method, resp.StatusCode, err)
	}
	if !answer.OK {
		return fmt.Errorf("%s: %s", method, answer.Error)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}

// user finds one of the people by name.
func (r *rig) user(name string) practiceUser {
	r.Helper()
	i := slices.IndexFunc(r.info.Slack.Users, func(u practiceUser) bool { return strings.EqualFold(u.Name, name) })
	if i < 0 {
		r.Fatalf("there is no %s in %+v", name, r.info.Slack.Users)
	}
	return r.info.Slack.Users[i]
}

func (r *rig) channel(name string) string {
	r.Helper()
	i := slices.IndexFunc(r.info.Slack.Channels, func(c practiceChannel) bool { return c.Name == name })
	if i < 0 {
		r.Fatalf("there is no #%s", name)
	}
	return r.info.Slack.Channels[i].ID
}

// say posts as a person, in a thread if one is given, and returns the message's ts.
func (r *rig) say(person, channel, thread, text string) string {
	r.Helper()
	args := url.Values{"channel": {channel}, "text": {strings.ReplaceAll(text, "@inspect", "<@"+r.info.Slack.BotUserID+">")}}
	if thread != "" {
		args.Set("thread_ts", thread)
	}
	var posted struct {
		TS string `json:"ts"`
	}
	if err := r.slack(r.user(person).Token, "chat.postMessage", args, &posted); err != nil {
		r.Fatal(err)
	}
	return posted.TS
}

// thread reads a thread as a person sees it.
func (r *rig) thread(channel, ts string) []slackMessage {
	r.Helper()
	var all struct {
		Messages []slackMessage `json:"messages"`
	}
	err := r.slack(r.user("alice").Token, "conversations.replies",
		url.Values{"channel": {channel}, "ts": {ts}, "limit": {"200"}, "include_all_metadata": {"true"}}, &all)
	if err != nil {
		r.Fatal(err)
	}
	return all.Messages
}

// waitMessage waits for a message of the bot in a thread that shows all of the
// texts. It looks when something changed, as Slack's own client does, and so
// stays within what Slack lets a person read.
func (r *rig) waitMessage(channel, ts string, within time.Duration, texts ...string) slackMessage {
	r.Helper()
	deadline := time.After(within)
	for {
		changed := r.practice.slack.Changed()
		messages := r.thread(channel, ts)
		for _, m := range messages {
			all := m.BotID != ""
			for _, text := range texts {
				all = all && strings.Contains(m.shows(), text)
			}
			if all {
				return m
			}
		}
		select {
		case <-changed:
		case <-deadline:
			r.Fatalf("no message shows %q within %v; the thread is:\n%s", texts, within, threadText(messages))
		}
	}
}

func threadText(messages []slackMessage) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "- [%s %s %s] %s\n", m.TS, m.User, m.Metadata.Payload.Key, m.Text)
	}
	return b.String()
}

// promptRow is what the tests look at of a prompt.
type promptRow struct {
	ID      string `db:"id"`
	Session string `db:"session_id"`
	State   string `db:"state"`
	Reason  string `db:"reason"`
	Text    string `db:"text"`
}

// promptsOf reads the prompts of a thread's session in order.
func (r *rig) promptsOf(thread string) []promptRow {
	r.Helper()
	var rows []promptRow
	err := r.db.Select(&rows, `select p.id, p.session_id, p.state, p.reason, p.text
		from prompts p join sessions s on s.id = p.session_id where s.thread = $1 order by p.position`, thread)
	if err != nil {
		r.Fatal(err)
	}
	return rows
}

// waitSettled waits until a thread has n prompts and all are settled.
func (r *rig) waitSettled(thread string, n int, within time.Duration) []promptRow {
	r.Helper()
	var rows []promptRow
	r.eventually(fmt.Sprintf("%d settled prompts", n), within, func() error {
		rows = r.promptsOf(thread)
		for _, p := range rows {
			if p.State == "queued" || p.State == "running" {
				return fmt.Errorf("%s (%q) is %s", p.ID, p.Text, p.State)
			}
		}
		if len(rows) != n {
			return fmt.Errorf("there are %d", len(rows))
		}
		return nil
	})
	return rows
}

// servePID is the control plane's process, as practice.json says now.
func (r *rig) servePID() int {
	r.practice.serve.mu.Lock()
	defer r.practice.serve.mu.Unlock()
	return r.practice.serve.pid
}

// killServe kills the control plane as a crash would.
func (r *rig) killServe() {
	r.Helper()
	if err := syscall.Kill(r.servePID(), syscall.SIGKILL); err != nil {
		r.Logf("killing the control plane: %v", err) // it may be between two lives
	}
}

// scriptFS is a folder of scripts for the scripted model.
type scriptFS map[string]string

func (s scriptFS) write(t testing.TB) fs.FS {
	t.Helper()
	dir := t.TempDir()
	for name, text := range s {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return os.DirFS(dir)
}

// remoteAs is the address of one of acme's repositories, with a person's credential in it.
func (r *rig) remoteAs(login, repo string) string {
	r.Helper()
	i := slices.IndexFunc(r.info.GitHub.Users, func(u practiceGitHubUser) bool { return u.Login == login })
	remote, err := url.Parse(r.info.GitHub.GitURL + "acme/" + repo + ".git")
	if i < 0 || err != nil {
		r.Fatalf("there is no way for %s to %s: %v", login, repo, err)
	}
	remote.User = url.UserPassword(login, r.info.GitHub.Users[i].Token)
	return remote.String()
}

// pushFile commits an executable file to a remote's default branch.
func (r *rig) pushFile(remote, path, text string) {
	r.Helper()
	dir := r.TempDir()
	git := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-c", "user.name=Alice", "-c", "user.email=alice@example.org"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			r.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	git("clone", "-q", remote, ".")
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755); err != nil {
		r.Fatal(err)
	}
	git("add", path)
	git("commit", "-qm", "Add "+path)
	git("push", "-q", "origin", "HEAD")
}
