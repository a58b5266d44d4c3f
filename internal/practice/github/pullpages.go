package github

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) pullsPage(p *visit) error {
	all := s.pullsIn(p.repo)
	slices.Reverse(all)
	return p.show("pulls.html", struct {
		visitView
		Pulls []*pull
	}{p.view("Pull requests"), all})
}

// said is one entry of a pull request's conversation.
type said struct {
	By   *account
	At   time.Time
	Verb string // commented, approved, requested changes, reviewed
	Body string
	Path string // of a comment on a line
	Line int
}

// pullView is a pull request's page.
type pullView struct {
	visitView
	Pull    *pull
	Author  *account
	Merger  *account
	Said    []said
	Commits []commitRow
	Files   []changedFile
}

func (v pullView) State() string {
	switch {
	case v.Pull.MergedAt != nil:
		return "merged"
	case v.Pull.ClosedAt != nil:
		return "closed"
	case v.Pull.Draft:
		return "draft"
	}
	return "open"
}

func (s *Server) pullOf(p *visit) (*pull, error) {
	n, _ := strconv.Atoi(p.arg("number")) // there is no pull request 0
	pr := s.pulls.get(pullKey(p.repo.fullName(), n))
	if pr == nil {
		return nil, errNotFound
	}
	return pr, nil
}

func (s *Server) pullPage(p *visit) error {
	pr, err := s.pullOf(p)
	if err != nil {
		return err
	}
	commits, err := p.bare().log(p.r.Context(), pr.BaseSHA+".."+pr.HeadSHA, 0)
	if err != nil {
		return err
	}
	slices.Reverse(commits)
	files, err := s.files(p.r.Context(), pr)
	if err != nil {
		return err
	}
	return p.show("pull.html", pullView{
		visitView: p.view(pr.Title), Pull: pr, Author: s.accounts.get(pr.Author), Merger: s.accounts.get(pr.MergedBy),
		Said: s.conversation(pr), Commits: s.rows(commits), Files: files,
	})
}

// conversation is everything that was said about a pull request, in order.
func (s *Server) conversation(pr *pull) []said {
	var all []said
	for _, c := range s.commentsOn(pr) {
		all = append(all, said{By: s.accounts.get(c.Author), At: c.CreatedAt, Verb: "commented", Body: c.Body})
	}
	verbs := map[string]string{"APPROVED": "approved", "CHANGES_REQUESTED": "requested changes", "COMMENTED": "reviewed"}
	for _, r := range s.reviewsOn(pr) {
		if r.State != "COMMENTED" || r.Body != "" {
			all = append(all, said{By: s.accounts.get(r.Author), At: r.SubmittedAt, Verb: verbs[r.State], Body: r.Body})
		}
	}
	for _, c := range sorted(s.inline, func(c *reviewComment) bool { return c.Pull == pr.key() }, inlineID) {
		all = append(all, said{By: s.accounts.get(c.Author), At: c.CreatedAt, Verb: "commented on", Body: c.Body, Path: c.Path, Line: c.Original.Line})
	}
	slices.SortStableFunc(all, func(a, b said) int { return a.At.Compare(b.At) })
	return all
}

// actOnPull is a button of the page, pressed by the person.
func (s *Server) actOnPull(p *visit) error {
	pr, err := s.pullOf(p)
	if err != nil {
		return err
	}
	mayWrite := p.repo.Roles[p.who.Login] >= writing
	own := mayWrite || pr.Author == p.who.Login
	switch action := p.arg("action"); {
	case action == "comment":
		body := p.r.PostFormValue("body")
		_, err = s.say(pr, p.who, &body)
	case action == "merge" && mayWrite:
		err = s.merge(p.r.Context(), pr, p.who, mergeRequest{Method: p.r.PostFormValue("method")})
	case action == "close" && own && pr.ClosedAt == nil:
		s.closePull(pr, p.who)
	case action == "reopen" && own && pr.ClosedAt != nil:
		err = s.reopenPull(p.r.Context(), pr, p.who)
	case action == "ready" && own:
		s.setDraft(pr, p.who, false)
	default:
		err = refuse(http.StatusForbidden, "You may not do that with this pull request.")
	}
	if err != nil {
		return err
	}
	http.Redirect(p.w, p.r, s.pageURL("%s/pull/%d", p.repo.fullName(), pr.Number), http.StatusSeeOther)
	return nil
}

// pullPart is /pull/NUMBER/files and the like, which are parts of the page, and
// /pull/new/BRANCH, the address that a push of a new branch names.
func (s *Server) pullPart(p *visit) error {
	if p.arg("number") != "new" {
		return s.pullPage(p)
	}
	http.Redirect(p.w, p.r, s.pageURL("%s/compare/%s...%s?quick_pull=1", p.repo.fullName(), escapePath(p.repo.DefaultBranch), escapePath(p.arg("rest"))), http.StatusFound)
	return nil
}

// compareView is two branches compared, with the form for a pull request.
type compareView struct {
	visitView
	Base, Head  string
	Comparison  *comparison // nil: one of them is missing
	Commits     []commitRow
	Pull        *pull  // the open one, if any
	Form        bool   // show the form at once
	PullTitle   string // prefilled
	PullBody    string
	Problem     string
	MayOpen     bool
	DraftWanted bool
}

// ends reads BASE...HEAD; a single branch is compared with the default one.
func (p *visit) ends() (base, head string) {
	base, head, found := strings.Cut(p.arg("range"), "...")
	if !found {
		base, head = p.repo.DefaultBranch, base
	}
	return withoutOwner(p.repo, base), withoutOwner(p.repo, head)
}

func (s *Server) comparePage(p *visit) error {
	q := p.r.URL.Query()
	base, head := p.ends()
	d, err := p.bare().between(p.r.Context(), "refs/heads/"+base, "refs/heads/"+head)
	if err != nil {
		return err
	}
	v := compareView{visitView: p.view("Compare"), Base: base, Head: head, Comparison: d, Form: hasAny(q, "quick_pull", "expand"),
		PullTitle: q.Get("title"), PullBody: q.Get("body"), DraftWanted: q.Get("draft") == "1"}
	v.MayOpen = v.Write
	for _, pr := range s.pullsIn(p.repo) {
		if pr.ClosedAt == nil && pr.Head == head && pr.Base == base {
			v.Pull = pr
		}
	}
	if d != nil {
		v.Commits = s.rows(d.Commits)
		if v.PullTitle == "" && d.Ahead > 0 {
			v.PullTitle = d.Commits[0].Subject()
		}
	}
	return p.show("compare.html", v)
}

func hasAny(q url.Values, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return q.Get(name) != "" })
}

// openFromPage opens a pull request as the person.
func (s *Server) openFromPage(p *visit) error {
	if p.repo.Roles[p.who.Login] < writing {
		return refuse(http.StatusForbidden, "You may read "+p.repo.fullName()+", but not open pull requests in it.")
	}
	base, head := p.ends()
	pr, err := s.openPull(p.r.Context(), p.repo, p.who, newPull{Title: p.r.PostFormValue("title"), Body: strings.ReplaceAll(p.r.PostFormValue("body"), "\r\n", "\n"),
		Base: base, Head: head, Draft: p.r.PostFormValue("draft") != ""})
	if err != nil {
		return err
	}
	http.Redirect(p.w, p.r, s.pageURL("%s/pull/%d", p.repo.fullName(), pr.Number), http.StatusSeeOther)
	return nil
}
