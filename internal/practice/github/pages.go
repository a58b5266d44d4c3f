package github

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/microcosm-cc/bluemonday"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
)

//go:embed pages
var pageFiles embed.FS

// personCookie says who a browser's person is. Nothing is secret here.
const personCookie = "person"

// visit is one request for a page.
type visit struct {
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	who  *account    // nil: nobody yet
	repo *repository // on pages of a repository
}

func (p *visit) arg(name string) string { return p.r.PathValue(name) }
func (p *visit) bare() bare             { return p.s.bare(p.repo) }

// visitView is what every page shows.
type visitView struct {
	Title  string
	Who    *account
	People []*account
	Repo   *repository
	Return string // this page's path
	Write  bool   // the person may write here
}

func (p *visit) view(title string) visitView {
	v := visitView{Title: title, Who: p.who, People: p.s.everybody(), Repo: p.repo, Return: p.r.URL.RequestURI()}
	v.Write = p.repo != nil && p.who != nil && p.repo.Roles[p.who.Login] >= writing
	return v
}

func (s *Server) everybody() []*account {
	return sorted(s.accounts, func(a *account) bool { return a.Type == "User" }, func(a *account) int64 { return a.ID })
}

// person finds somebody one can be.
func (s *Server) person(login string) *account {
	if a := s.accounts.get(login); a != nil && a.Type == "User" {
		return a
	}
	return nil
}

// remember makes the browser that person.
func (p *visit) remember(who *account) {
	p.who = who
	http.SetCookie(p.w, &http.Cookie{Name: personCookie, Value: who.Login, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
		MaxAge: int((30 * 24 * time.Hour).Seconds())})
}

// pages serves what people look at.
func (s *Server) pages() http.Handler {
	mux := http.NewServeMux()
	on := func(pattern string, h func(*visit) error) { mux.HandleFunc(pattern, s.page(h, false)) }
	in := func(pattern string, h func(*visit) error) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /{owner}/{repo}"+path, s.page(h, true))
	}
	mux.Handle("GET /style.css", http.FileServerFS(mustSub(pageFiles, "pages")))
	on("GET /{$}", s.home)
	on("GET /avatars/{id}", s.avatar)
	on("POST /session", s.become)
	on("GET /login/oauth/authorize", s.authorize)
	on("POST /login/oauth/authorize", s.chooseGrant)
	on("/", func(*visit) error { return errNotFound })
	in("GET ", s.repositoryPage)
	in("GET /tree/{path...}", s.folderPage)
	in("GET /blob/{path...}", s.filePage)
	in("GET /commits/{ref...}", s.commitsPage)
	in("GET /commit/{sha}", s.commitPage)
	in("GET /branches", s.branchesPage)
	in("GET /pulls", s.pullsPage)
	in("GET /pull/{number}", s.pullPage)
	in("GET /pull/{number}/{rest...}", s.pullPart)
	in("POST /pull/{number}/{action}", s.actOnPull)
	in("GET /compare/{range...}", s.comparePage)
	in("POST /compare/{range...}", s.openFromPage)
	return http.NewCrossOriginProtection().Handler(mux)
}

// page runs a page under the mutex and shows what went wrong. Pages of
// repositories want to know who looks, because all are private.
func (s *Server) page(h func(*visit) error, ofRepository bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		p := &visit{s: s, w: w, r: r}
		if cookie, err := r.Cookie(personCookie); err == nil {
			p.who = s.person(cookie.Value)
		}
		if p.who != nil {
			noteCaller(r.Context(), p.who.Login)
		}
		err := p.enter(h, ofRepository)
		if err == nil {
			err = s.journal.err
		}
		if err != nil {
			p.explain(err)
		}
	}
}

func (p *visit) enter(h func(*visit) error, ofRepository bool) error {
	if !ofRepository {
		return h(p)
	}
	p.repo = p.s.repos.get(strings.ToLower(p.arg("owner") + "/" + p.arg("repo")))
	if p.who == nil {
		p.repo = nil
		p.w.WriteHeader(http.StatusUnauthorized)
		return p.show("signin.html", p.view("Sign in"))
	}
	if p.repo == nil || p.repo.Roles[p.who.Login] < reading {
		p.repo = nil
		return errNotFound
	}
	return h(p)
}

// explain shows an error as a page.
func (p *visit) explain(err error) {
	var e *refusal
	if !errors.As(err, &e) {
		p.s.log.Error("showing a page", "path", p.r.URL.Path, "err", err)
		e = refuse(http.StatusInternalServerError, "Something went wrong.")
	}
	text := e.message
	if len(e.sentences) > 0 {
		text = strings.Join(e.sentences, " ")
	}
	for _, detail := range e.errors {
		if m, isText := detail["message"].(string); isText {
			text = m
		} else {
			text = fmt.Sprintf("%s: the field %v is %v.", e.message, detail["field"], detail["code"])
		}
	}
	p.w.WriteHeader(e.status)
	if err := p.show("error.html", struct {
		visitView
		Text string
	}{p.view(http.StatusText(e.status)), text}); err != nil {
		p.s.log.Error("showing an error", "err", err)
	}
}

// show renders a page whole before it sends any of it.
func (p *visit) show(name string, data any) error {
	var page bytes.Buffer
	if err := templates[name].ExecuteTemplate(&page, "layout.html", data); err != nil {
		return err
	}
	p.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	p.w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src * data:; base-uri 'none'; frame-ancestors 'none'")
	_, err := page.WriteTo(p.w)
	return err
}

// templates are the pages, each with the layout and the parts.
var templates = parsePages()

func parsePages() map[string]*template.Template {
	functions := template.FuncMap{
		"markdown": renderMarkdown,
		"short":    func(sha string) string { return sha[:min(7, len(sha))] },
		"when":     func(t time.Time) string { return t.UTC().Format("2 Jan 2006 15:04 UTC") },
		"op":       func(op fmt.Stringer) string { return op.String() },
		"lines":    strings.Lines,
		"escape":   escapePath,
	}
	base := template.Must(template.New("").Funcs(functions).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	all := map[string]*template.Template{}
	entries, err := pageFiles.ReadDir("pages")
	if err != nil {
		panic(err) // they are in the program
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".html") && name != "layout.html" && name != "parts.html" {
			all[name] = template.Must(template.Must(base.Clone()).ParseFS(pageFiles, "pages/"+name))
		}
	}
	return all
}

var (
	markdown = goldmark.New(goldmark.WithExtensions(extension.GFM))
	policy   = bluemonday.UGCPolicy()
)

// renderMarkdown makes safe HTML of what anybody wrote.
func renderMarkdown(text string) (template.HTML, error) {
	var out bytes.Buffer
	if err := markdown.Convert([]byte(text), &out); err != nil {
		return "", err
	}
	return template.HTML(policy.SanitizeBytes(out.Bytes())), nil
}

func (s *Server) home(p *visit) error {
	var repos []*repository
	for _, r := range s.allRepos() {
		if p.who != nil && r.Roles[p.who.Login] >= reading {
			repos = append(repos, r)
		}
	}
	return p.show("home.html", struct {
		visitView
		Repos []*repository
	}{p.view("GitHub, for practice"), repos})
}

// become makes the browser another person.
func (s *Server) become(p *visit) error {
	who := s.person(p.r.PostFormValue("login"))
	if who == nil {
		return refuse(http.StatusUnprocessableEntity, "Choose who you are.")
	}
	p.remember(who)
	back, err := url.Parse(p.r.PostFormValue("return_to"))
	if err != nil || back.Host != "" || back.Scheme != "" || !strings.HasPrefix(back.Path, "/") {
		back = &url.URL{Path: "/"}
	}
	http.Redirect(p.w, p.r, back.RequestURI(), http.StatusSeeOther)
	return nil
}

// avatar draws the first letter of a login.
func (s *Server) avatar(p *visit) error {
	a := s.accountByID((&call{r: p.r}).number("id"))
	if a == nil {
		return errNotFound
	}
	colors := []string{"#8250df", "#1a7f37", "#bc4c00", "#0969da", "#bf3989"}
	p.w.Header().Set("Content-Type", "image/svg+xml")
	p.w.Header().Set("Cache-Control", "max-age=3600")
	_, err := fmt.Fprintf(p.w, `<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 64 64"><rect width="64" height="64" fill="%s"/>`+
		`<text x="32" y="43" font-family="sans-serif" font-size="32" fill="#fff" text-anchor="middle">%s</text></svg>`,
		colors[a.ID%int64(len(colors))], template.HTMLEscapeString(strings.ToUpper(a.Login[:1])))
	return err
}

// commitRow is a commit as pages list it.
type commitRow struct {
	gitCommit
	By *account // nil: an address that nobody here has
}

func (s *Server) rows(commits []gitCommit) []commitRow {
	var list []commitRow
	for _, c := range commits {
		list = append(list, commitRow{c, s.accountOf(c.Author.Email)})
	}
	return list
}

// branchNames lists a repository's branches, the default one first.
func (s *Server) branchNames(r *repository) []string {
	var names []string
	for ref := range r.Refs {
		if name, isBranch := strings.CutPrefix(ref, "refs/heads/"); isBranch && name != r.DefaultBranch {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return append([]string{r.DefaultBranch}, names...)
}
