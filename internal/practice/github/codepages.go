package github

import (
	"html/template"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"
)

func mustSub(files fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}

// folderView is a folder at some commit.
type folderView struct {
	visitView
	Ref      string
	Path     string
	Branches []string
	Latest   commitRow
	Entries  []entry
	Readme   template.HTML
	Pulls    int // open ones
}

func (s *Server) repositoryPage(p *visit) error { return s.showFolder(p, p.repo.DefaultBranch, "") }

func (s *Server) folderPage(p *visit) error {
	ref, path := s.splitRef(p, p.arg("path"))
	return s.showFolder(p, ref, path)
}

// splitRef parts a branch or commit from the path behind it. Branches have
// slashes, so the longest that fits is meant.
func (s *Server) splitRef(p *visit, rest string) (ref, path string) {
	rest = strings.Trim(rest, "/")
	for _, name := range s.branchNames(p.repo) {
		if (rest == name || strings.HasPrefix(rest, name+"/")) && len(name) > len(ref) {
			ref = name
		}
	}
	if ref == "" {
		ref, _, _ = strings.Cut(rest, "/")
	}
	return ref, strings.Trim(strings.TrimPrefix(rest, ref), "/")
}

func (s *Server) showFolder(p *visit, ref, path string) error {
	sha := p.bare().commit(p.r.Context(), ref)
	if sha == "" || p.bare().kind(p.r.Context(), sha, path) != "tree" {
		return errNotFound
	}
	latest, err := p.bare().log(p.r.Context(), sha, 1)
	if err != nil {
		return err
	}
	entries, err := p.bare().list(p.r.Context(), sha, path)
	if err != nil {
		return err
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(b.Kind, a.Kind) }) // folders first
	v := folderView{visitView: p.view(p.repo.fullName()), Ref: ref, Path: path, Branches: s.branchNames(p.repo), Latest: s.rows(latest)[0], Entries: entries}
	for _, e := range entries {
		if e.Name == "README.md" {
			text, err := p.bare().blob(p.r.Context(), sha, e.Path)
			if err != nil {
				return err
			}
			if v.Readme, err = renderMarkdown(text); err != nil {
				return err
			}
		}
	}
	for _, pr := range s.pullsIn(p.repo) {
		if pr.ClosedAt == nil {
			v.Pulls++
		}
	}
	return p.show("folder.html", v)
}

func (s *Server) filePage(p *visit) error {
	ref, path := s.splitRef(p, p.arg("path"))
	sha := p.bare().commit(p.r.Context(), ref)
	if sha == "" || p.bare().kind(p.r.Context(), sha, path) != "blob" {
		return errNotFound
	}
	text, err := p.bare().blob(p.r.Context(), sha, path)
	if err != nil {
		return err
	}
	if !utf8.ValidString(text) {
		text = "(a file that is not text)"
	}
	return p.show("file.html", struct {
		visitView
		Ref, Path, Text string
	}{p.view(path), ref, path, text})
}

func (s *Server) commitsPage(p *visit) error {
	sha := p.bare().commit(p.r.Context(), p.arg("ref"))
	if sha == "" {
		return errNotFound
	}
	commits, err := p.bare().log(p.r.Context(), sha, 100)
	if err != nil {
		return err
	}
	return p.show("commits.html", struct {
		visitView
		Ref     string
		Commits []commitRow
	}{p.view("Commits"), p.arg("ref"), s.rows(commits)})
}

func (s *Server) commitPage(p *visit) error {
	sha := p.bare().commit(p.r.Context(), p.arg("sha"))
	if sha == "" {
		return errNotFound
	}
	commits, err := p.bare().log(p.r.Context(), sha, 1)
	if err != nil {
		return err
	}
	files, err := p.bare().diff(p.r.Context(), firstParent(commits[0]), sha)
	if err != nil {
		return err
	}
	return p.show("commit.html", struct {
		visitView
		Commit commitRow
		Files  []changedFile
	}{p.view(commits[0].Subject()), s.rows(commits)[0], files})
}

// branchRow is a branch as the list of branches shows it.
type branchRow struct {
	Name          string
	Latest        commitRow
	Ahead, Behind int
	Pull          *pull // the open one
}

func (s *Server) branchesPage(p *visit) error {
	var list []branchRow
	for _, name := range s.branchNames(p.repo) {
		latest, err := p.bare().log(p.r.Context(), "refs/heads/"+name, 1)
		if err != nil {
			return err
		}
		row := branchRow{Name: name, Latest: s.rows(latest)[0]}
		if row.Ahead, err = p.bare().count(p.r.Context(), p.repo.DefaultBranch, name); err != nil {
			return err
		}
		if row.Behind, err = p.bare().count(p.r.Context(), name, p.repo.DefaultBranch); err != nil {
			return err
		}
		for _, pr := range s.pullsIn(p.repo) {
			if pr.ClosedAt == nil && pr.Head == name {
				row.Pull = pr
			}
		}
		list = append(list, row)
	}
	return p.show("branches.html", struct {
		visitView
		Branches []branchRow
	}{p.view("Branches"), list})
}
