package github

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options say how a Server behaves.
type Options struct {
	// Log is told what people may want to know. Nil: slog.Default.
	Log *slog.Logger
	// WebhookURL is where the App's webhooks go. Empty: there are none.
	WebhookURL string
	// Now is the clock of tokens and dates. Nil: time.Now.
	Now func() time.Time
}

// Server is the stand-in. Make one with Open; its methods may be called from
// several goroutines.
type Server struct {
	log  *slog.Logger
	dir  string
	now  func() time.Time
	key  *rsa.PrivateKey
	wake chan struct{} // a delivery may be due

	mu         sync.Mutex // guards everything below
	url        string     // of the pages, without a trailing slash
	webhookURL string
	journal    *journal

	accounts   *table[account]       // by lower-case login
	repos      *table[repository]    // by lower-case owner/name
	pulls      *table[pull]          // by pullKey
	labels     *table[label]         // by repository and name
	comments   *table[comment]       // by id, as all below
	reviews    *table[review]        //
	inline     *table[reviewComment] //
	checks     *table[checkRun]      //
	statuses   *table[commitStatus]  //
	deliveries *table[delivery]      //
	tokens     *table[token]         // by value
	codes      *table[grantCode]     // by value
	settings   *table[setting]       // by name

	observed observations
}

// Constants of the seeded organisation and App.
const (
	orgLogin       = "acme"
	orgID          = 20000
	botID          = 20100
	appID          = 310001
	appSlug        = "inspect"
	installationID = 42000001
	clientID       = "Iv23liPracticeInspect"
)

//go:embed seed
var seedFiles embed.FS

// User is a person of the stand-in.
type User struct {
	ID    int64
	Login string
	Name  string
	Token string // a user token that does not expire
}

// Seed is what the product and tests have to know of the stand-in.
type Seed struct {
	AppID          int64
	Slug           string
	PrivateKey     string // PEM, PKCS#1, as GitHub gives it out
	InstallationID int64
	ClientID       string
	ClientSecret   string
	WebhookSecret  string
	BotUserID      int64
	BotLogin       string
	Users          []User   // alice, bob, carol
	Repositories   []string // owner/name
}

// Open opens the stand-in that keeps its state in dir, making and seeding it
// the first time.
func Open(dir string, o Options) (*Server, error) {
	s := &Server{log: o.Log, dir: dir, now: o.Now, webhookURL: o.WebhookURL, url: "http://127.0.0.1", wake: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := os.MkdirAll(filepath.Join(dir, "repos"), 0o755); err != nil {
		return nil, err
	}
	if err := s.openTables(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*gitTimeout)
	defer cancel()
	if err := errors.Join(s.plant(ctx), s.catchUp(ctx), s.journal.err); err != nil {
		s.journal.close()
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	return s, nil
}

func (s *Server) openTables() error {
	j := &journal{path: filepath.Join(s.dir, "journal"), tables: map[string]rows{}}
	s.journal = j
	s.accounts = newTable[account](j, "accounts")
	s.repos = newTable[repository](j, "repositories")
	s.pulls = newTable[pull](j, "pulls")
	s.labels = newTable[label](j, "labels")
	s.comments = newTable[comment](j, "comments")
	s.reviews = newTable[review](j, "reviews")
	s.inline = newTable[reviewComment](j, "inline")
	s.checks = newTable[checkRun](j, "checks")
	s.statuses = newTable[commitStatus](j, "statuses")
	s.deliveries = newTable[delivery](j, "deliveries")
	s.tokens = newTable[token](j, "tokens")
	s.codes = newTable[grantCode](j, "codes")
	s.settings = newTable[setting](j, "settings")
	return j.open()
}

// Close closes the journal. Requests must have ended.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.close()
}

// SetURL says where Handler is reached, without a path: http://127.0.0.1:4000.
func (s *Server) SetURL(base string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url = strings.TrimRight(base, "/")
}

// SetWebhookURL says where the App's webhooks go from now on; "" for nowhere.
func (s *Server) SetWebhookURL(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.webhookURL = url
}

// SetRole gives a person a role in a repository: none, read, write or admin.
func (s *Server) SetRole(repository, login, role string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	repo, l := s.repos.get(strings.ToLower(repository)), parseLevel(role)
	if repo == nil || s.accounts.get(login) == nil || l.String() != role {
		return fmt.Errorf("no repository %s, person %s or role %s", repository, login, role)
	}
	repo.Roles[login] = l
	s.repos.put(repo.key(), repo)
	return s.journal.err
}

// Protect lets nobody push to a branch any more.
func (s *Server) Protect(repository, branch string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	repo := s.repos.get(strings.ToLower(repository))
	if repo == nil {
		return fmt.Errorf("no repository %s", repository)
	}
	repo.Protected = append(repo.Protected, branch)
	s.repos.put(repo.key(), repo)
	return s.journal.err
}

// Seed returns what was made when the stand-in was first opened.
func (s *Server) Seed() Seed {
	s.mu.Lock()
	defer s.mu.Unlock()
	seed := Seed{
		AppID: appID, Slug: appSlug, PrivateKey: s.settings.get("private_key").Value, InstallationID: installationID,
		ClientID: clientID, ClientSecret: s.settings.get("client_secret").Value, WebhookSecret: s.settings.get("webhook_secret").Value,
		BotUserID: botID, BotLogin: appSlug + "[bot]",
	}
	for _, a := range sorted(s.accounts, func(a *account) bool { return a.Type == "User" }, func(a *account) int64 { return a.ID }) {
		seed.Users = append(seed.Users, User{ID: a.ID, Login: a.Login, Name: a.Name, Token: s.settings.get("token_" + a.Login).Value})
	}
	for _, r := range s.allRepos() {
		seed.Repositories = append(seed.Repositories, r.fullName())
	}
	return seed
}

func (s *Server) allRepos() []*repository {
	return sorted(s.repos, func(*repository) bool { return true }, func(r *repository) int64 { return r.ID })
}

func (s *Server) repoDir(owner, name string) string {
	return filepath.Join(s.dir, "repos", owner, name+".git")
}

func (s *Server) bare(r *repository) bare { return bare{s.repoDir(r.Owner, r.Name)} }

// nextID gives out numbers that are never given twice.
func (s *Server) nextID() int64 {
	n := int64(500000001)
	if last := s.settings.get("last_id"); last != nil {
		n, _ = strconv.ParseInt(last.Value, 10, 64)
		n++
	}
	s.settings.put("last_id", &setting{strconv.FormatInt(n, 10)})
	return n
}

// plant makes what is missing of the seed.
func (s *Server) plant(ctx context.Context) error {
	for name, make := range map[string]func() string{
		"private_key":    newPrivateKey,
		"client_secret":  func() string { return strings.ToLower(rand.Text() + rand.Text())[:40] },
		"webhook_secret": func() string { return strings.ToLower(rand.Text()) },
	} {
		if s.settings.get(name) == nil {
			s.settings.put(name, &setting{make()})
		}
	}
	block, _ := pem.Decode([]byte(s.settings.get("private_key").Value))
	var err error
	if s.key, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
		return err
	}
	for _, a := range []account{
		{orgID, orgLogin, "Acme", "Organization"}, {botID, appSlug + "[bot]", appSlug, "Bot"},
		{20001, "alice", "Alice Archer", "User"}, {20002, "bob", "Bob Baker", "User"}, {20003, "carol", "Carol Cook", "User"},
	} {
		if s.accounts.get(a.Login) == nil {
			s.accounts.put(a.Login, &a)
		}
		if name := "token_" + a.Login; a.Type == "User" && s.settings.get(name) == nil {
			value := "ghu_" + randomText(36)
			s.settings.put(name, &setting{value})
			s.tokens.put(value, &token{Kind: userToken, User: a.Login})
		}
	}
	return errors.Join(
		s.plantRepository(ctx, 30001, "greeter", "Greets people as the time of day demands"),
		s.plantRepository(ctx, 30002, "website", "Acme's website"))
}

// plantRepository makes a repository whose history is the same on every machine.
func (s *Server) plantRepository(ctx context.Context, id int64, name, description string) error {
	dir := s.repoDir(orgLogin, name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		history, err := seedFiles.ReadFile("seed/" + name + ".fast-import")
		if err != nil {
			return err
		}
		if err := makeBare(ctx, dir, history); err != nil {
			return fmt.Errorf("seeding %s: %w", name, err)
		}
	}
	key := orgLogin + "/" + name
	if s.repos.get(key) != nil {
		return nil
	}
	refs, err := bare{dir}.refs(ctx)
	if err != nil {
		return err
	}
	now := s.now().UTC()
	s.repos.put(key, &repository{
		ID: id, Owner: orgLogin, Name: name, Description: description, DefaultBranch: "main", Private: true,
		Roles: map[string]level{"alice": writing, "bob": writing, "carol": reading},
		Refs:  refs, NextNumber: 1, CreatedAt: now, PushedAt: now,
	})
	return nil
}

// makeBare makes a bare repository of a history beside its place and moves it
// there whole, so that a kill leaves none half made.
func makeBare(ctx context.Context, dir string, history []byte) error {
	made := bare{dir + ".new"}
	if err := errors.Join(os.RemoveAll(made.dir), os.MkdirAll(filepath.Dir(dir), 0o755)); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch", "main", "--template="},
		{"config", "http.receivepack", "true"},
		{"config", "core.logAllRefUpdates", "true"},
		{"config", "uploadpack.allowAnySHA1InWant", "true"},
		{"config", "receive.fsckObjects", "true"},
		{"config", "gc.auto", "0"}, // nothing is left running after a push
		{"config", "receive.autogc", "false"},
	} {
		if _, err := made.git(ctx, args...); err != nil {
			return err
		}
	}
	if _, err := made.gitWith(ctx, nil, history, "fast-import", "--quiet"); err != nil {
		return err
	}
	if err := writeHooks(made.dir); err != nil {
		return err
	}
	return os.Rename(made.dir, dir)
}

func newPrivateKey() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // only without a source of randomness
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// randomText returns n characters such as GitHub's tokens consist of.
func randomText(n int) string {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	raw := make([]byte, n)
	rand.Read(raw)
	for i, b := range raw {
		raw[i] = letters[int(b)%len(letters)]
	}
	return string(raw)
}

// Handler serves the API, git and the pages.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v3/", http.StripPrefix("/api/v3", s.api()))
	mux.HandleFunc("POST /api/graphql", s.graphql)
	mux.HandleFunc("GET /actions-logs/{id}", s.serveJobLog)
	mux.HandleFunc("POST /login/oauth/access_token", s.accessToken)
	mux.Handle("/", s.gitOr(s.pages()))
	return s.observe(mux)
}
