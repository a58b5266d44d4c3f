package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dlclark/regexp2/v2"
	slackgo "github.com/slack-go/slack"

	"openinspect/internal/devpg/pgtest"
	"openinspect/internal/practice/slack"
	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// rig is the pages being served over a real engine and database, with the
// stand-in for Slack as the issuer.
type rig struct {
	*sessionstest.World
	engine *sessions.Engine
	server *Server
	url    string
	slack  *slack.Server
	issuer string // where it is served
	seed   slack.Seed
}

// endHighlighting ends the clock of the highlighter's expressions with the test:
// it goes on for a second and looks like a goroutine that was left running.
func endHighlighting(t testing.TB) { t.Cleanup(regexp2.StopTimeoutClock) }

// newRig serves pages until the test ends.
func newRig(t testing.TB, changes ...func(*Config)) *rig {
	t.Helper()
	return newRigWith(t, nil, changes...)
}

// newRigWith is newRig over an engine that is configured otherwise.
func newRigWith(t testing.TB, engine func(*sessions.Config), changes ...func(*Config)) *rig {
	t.Helper()
	endHighlighting(t)
	w := sessionstest.New(t)
	r := &rig{World: w, engine: w.Engine(func(c *sessions.Config) {
		c.MaxSpares = 4
		if engine != nil {
			engine(c)
		}
	})}
	r.openSlack(t)
	pages := httptest.NewUnstartedServer(nil)
	r.url = "http://" + pages.Listener.Addr().String()
	cfg := Config{PublicURL: r.url, SlackClientID: r.seed.ClientID, SlackClientSecret: r.seed.ClientSecret,
		OIDCIssuer: r.issuer, TeamID: r.seed.TeamID, SlackWorkspaceURL: r.issuer,
		Members: newDirectory(r.seed.BotToken, r.issuer)}
	for _, change := range changes {
		change(&cfg)
	}
	var err error
	if r.server, err = New(w.Log, r.engine, cfg); err != nil {
		t.Fatal(err)
	}
	r.server.timing.look = 20 * time.Millisecond
	r.server.timing.panels = 200 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.server.Run(ctx) })
	pages.Config.Handler = r.server.Handler()
	pages.Start()
	t.Cleanup(func() {
		cancel()
		running.Wait()
		pages.CloseClientConnections()
		pages.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return r
}

// openSlack serves the stand-in for Slack.
func (r *rig) openSlack(t testing.TB) {
	t.Helper()
	s, err := slack.Open(t.TempDir(), slack.Options{RateScale: -1, Log: r.Log})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	s.SetURL(srv.URL)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if err := s.Close(); err != nil {
			t.Errorf("closing the workspace: %v", err)
		}
	})
	r.slack, r.seed, r.issuer = s, s.Seed(), srv.URL
}

// directory is who belongs to the workspace, as Slack's Web API says it.
type directory struct {
	api  *slackgo.Client
	mu   sync.Mutex
	read map[string]slackgo.User
	at   map[string]time.Time // when it was read
}

func newDirectory(token, slack string) *directory {
	return &directory{api: slackgo.New(token, slackgo.OptionAPIURL(slack+"/api/")),
		read: make(map[string]slackgo.User), at: make(map[string]time.Time)}
}

func (d *directory) Refusal(ctx context.Context, user string, within time.Duration) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.at[user]) >= within {
		u, err := d.api.GetUserInfoContext(ctx, user)
		if err != nil {
			return "", err
		}
		d.read[user], d.at[user] = *u, time.Now()
	}
	switch u := d.read[user]; {
	case u.IsRestricted:
		return "Guests cannot use this. Ask a full member.", nil
	case u.Deleted:
		return "Your account was deactivated.", nil
	}
	return "", nil
}

// browser is a person's HTTP client, signed in through Slack.
type browser struct {
	*http.Client
	t    testing.TB
	rig  *rig
	user slack.SeedUser
}

// fresh is a client with cookies of its own that is not signed in.
func (r *rig) fresh(t testing.TB) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: tr, Timeout: 20 * time.Second}
}

// signIn signs a person of the workspace in, as a browser does.
func (r *rig) signIn(t testing.TB, name string) *browser {
	t.Helper()
	b := r.open(t, name)
	if at, status, _ := b.trySignIn(); at != "/settings" || status != http.StatusOK {
		t.Fatalf("signing in ended at %s with %d", at, status)
	}
	return b
}

// open is the browser of a person of the workspace who has not signed in here.
func (r *rig) open(t testing.TB, name string) *browser {
	t.Helper()
	b := &browser{Client: r.fresh(t), t: t, rig: r, user: r.person(t, name)}
	at, err := url.Parse(r.issuer)
	if err != nil {
		t.Fatal(err)
	}
	b.Jar.SetCookies(at, []*http.Cookie{{Name: "practice_as", Value: b.user.Token}})
	return b
}

// trySignIn goes the way through Slack to the settings, and says where it ended and with what page.
func (b *browser) trySignIn() (path string, status int, page string) {
	b.t.Helper()
	resp, err := b.Get(b.rig.url + "/signin/slack?return=/settings")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.Request.URL.Path, resp.StatusCode, string(data)
}

func (r *rig) person(t testing.TB, name string) slack.SeedUser {
	t.Helper()
	for _, u := range r.seed.Users {
		if strings.EqualFold(u.Name, name) {
			return u
		}
	}
	t.Fatalf("nobody is called %s", name)
	return slack.SeedUser{}
}

// login is the value of the browser's cookie.
func (b *browser) login() string {
	at, err := url.Parse(b.rig.url)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.Jar.Cookies(at) {
		if c.Name == b.rig.server.cookieName("login") {
			return c.Value
		}
	}
	b.t.Fatal("the browser is not signed in")
	return ""
}

// call makes a request of the JSON API and decodes its answer into into, if not nil.
func (b *browser) call(method, path, body string, into any, headers ...string) int {
	b.t.Helper()
	req, err := http.NewRequest(method, b.rig.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			b.t.Fatalf("%s %s answers %s, not JSON: %.200s", method, path, resp.Status, data)
		}
	}
	return resp.StatusCode
}

// page reads a page's HTML.
func (b *browser) page(path string) string {
	b.t.Helper()
	resp, err := b.Get(b.rig.url + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

// begin begins a session through the API and returns its and its prompt's id.
func (b *browser) begin(prompt string) (session, id string) {
	b.t.Helper()
	body, err := json.Marshal(map[string]string{"prompt": prompt, "repository": "acme/greeter"})
	if err != nil {
		b.t.Fatal(err)
	}
	var got struct{ Session, Prompt string }
	if status := b.call("POST", "/api/sessions", string(body), &got); status != http.StatusCreated {
		b.t.Fatalf("beginning a session answers %d", status)
	}
	return got.Session, got.Prompt
}

// scribe appends to a session's log in the database, as another replica does.
type scribe struct {
	*rig
	t       testing.TB
	session string
	prompt  string
}

// write appends one event under the session's row lock.
func (s *scribe) write(kind string, body any) {
	s.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = s.DB.Exec(`
		with locked as (update sessions set last_seq = last_seq + 1, updated_at = now() where id = $1 returning last_seq)
		insert into events (session_id, seq, prompt_id, kind, body, at) select $1, last_seq, nullif($2, ''), $3, $4, now() from locked`,
		s.session, s.prompt, kind, data)
	if err != nil {
		s.t.Fatal(err)
	}
}

// run makes the prompt the running one.
func (s *scribe) run() {
	s.t.Helper()
	if _, err := s.DB.Exec(`update prompts set state = 'running', started_at = now() where id = $1`, s.prompt); err != nil {
		s.t.Fatal(err)
	}
	s.write(sessions.KindStarted, sessions.BodyStarted{Boot: "boot"})
}

// end settles the prompt.
func (s *scribe) end(b sessions.BodyEnded) {
	s.t.Helper()
	if _, err := s.DB.Exec(`update prompts set state = $2, reason = $3, ended_at = now() where id = $1`,
		s.prompt, b.State, b.Reason); err != nil {
		s.t.Fatal(err)
	}
	s.write(sessions.KindEnded, b)
}

// text appends a finished text part.
func (s *scribe) text(part, text string) {
	s.t.Helper()
	s.write(sandbox.KindText, sandbox.BodyText{Part: part, Text: text})
}

// fill appends n text parts in one statement.
func (s *scribe) fill(n int) {
	s.t.Helper()
	_, err := s.DB.Exec(`
		with was as (select last_seq from sessions where id = $1),
		made as (insert into events (session_id, seq, at, prompt_id, kind, body)
			select $1, was.last_seq + i, now(), nullif($2, ''),
				case i % 4 when 0 then 'text' else 'tool' end,
				case i % 4 when 0 then jsonb_build_object('part', 'p' || i, 'text', 'Paragraph **' || i || '** with `+"`code`"+` and words that go on for a line or so.')
				else jsonb_build_object('part', 'p' || i, 'tool', 'bash', 'state', 'completed', 'input', jsonb_build_object('command', 'go test ./pkg' || i),
					'output', repeat('ok  	acme/greeter/pkg	0.01s' || chr(10), 12), 'millis', 1200) end
			from was, generate_series(1, $3) i)
		update sessions set last_seq = last_seq + $3 where id = $1`, s.session, s.prompt, n)
	if err != nil {
		s.t.Fatal(err)
	}
}

// last is the session's last sequence number.
func (s *scribe) last() int64 {
	s.t.Helper()
	x, err := s.engine.Session(context.Background(), s.session)
	if err != nil {
		s.t.Fatal(err)
	}
	return x.LastSeq
}

// scribe begins a session and returns what writes its log.
func (b *browser) scribe(prompt string) *scribe {
	b.t.Helper()
	session, id := b.begin(prompt)
	return &scribe{rig: b.rig, t: b.t, session: session, prompt: id}
}

func sessionPath(s *scribe) string { return fmt.Sprintf("/sessions/%s", s.session) }
