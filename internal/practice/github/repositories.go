package github

import (
	"context"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

func (s *Server) getRepository(c *call) (reply, error) { return ok(s.repoJSON(c.repo, c.who)), nil }

func (s *Server) getPermission(c *call) (reply, error) {
	a := s.accounts.get(strings.ToLower(c.arg("login")))
	if a == nil {
		return reply{}, refuse(http.StatusNotFound, c.arg("login")+" is not a user")
	}
	role := c.repo.Roles[a.Login].String()
	return ok(object{"permission": role, "role_name": role, "user": s.accountJSON(a)}), nil
}

func (s *Server) branchJSON(r *repository, name, sha string) object {
	return object{"name": name, "commit": object{"sha": sha, "url": s.apiURL("repos/%s/commits/%s", r.fullName(), sha)},
		"protected": slices.Contains(r.Protected, name)}
}

func (s *Server) listBranches(c *call) (reply, error) {
	refs, err := c.bare().refs(c.ctx())
	if err != nil {
		return reply{}, err
	}
	var list []object
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		if name, isBranch := strings.CutPrefix(ref, "refs/heads/"); isBranch {
			list = append(list, s.branchJSON(c.repo, name, refs[ref]))
		}
	}
	return ok(c.page(list)), nil
}

func (s *Server) getBranch(c *call) (reply, error) {
	name := c.arg("branch")
	sha := c.bare().branch(c.ctx(), name)
	if sha == "" {
		return reply{}, refuse(http.StatusNotFound, "Branch not found")
	}
	commits, err := c.bare().log(c.ctx(), sha, 1)
	if err != nil {
		return reply{}, err
	}
	o := s.branchJSON(c.repo, name, sha)
	o["commit"] = s.commitJSON(c.repo, commits[0])
	return ok(o), nil
}

func (s *Server) refJSON(r *repository, ref, sha string) object {
	return object{"ref": ref, "node_id": "REF_" + sha, "url": s.apiURL("repos/%s/git/%s", r.fullName(), escapePath(ref)),
		"object": object{"type": "commit", "sha": sha, "url": s.apiURL("repos/%s/git/commits/%s", r.fullName(), sha)}}
}

func (s *Server) getRef(c *call) (reply, error) {
	refs, err := c.bare().refs(c.ctx())
	if err != nil {
		return reply{}, err
	}
	ref := "refs/" + c.arg("ref")
	if refs[ref] == "" {
		return reply{}, errNotFound
	}
	return ok(s.refJSON(c.repo, ref, refs[ref])), nil
}

func (s *Server) matchingRefs(c *call) (reply, error) {
	refs, err := c.bare().refs(c.ctx())
	if err != nil {
		return reply{}, err
	}
	list := []object{}
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		if strings.HasPrefix(ref, "refs/"+c.arg("ref")) {
			list = append(list, s.refJSON(c.repo, ref, refs[ref]))
		}
	}
	return ok(c.page(list)), nil
}

// refName is what GitHub takes for the full name of a branch or tag.
var refName = regexp.MustCompile(`^refs/(heads|tags)/[^\s~^:?*\[\\]+$`)

func (s *Server) createRef(c *call) (reply, error) {
	var ask struct{ Ref, SHA string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if !refName.MatchString(ask.Ref) {
		return reply{}, refuse(http.StatusUnprocessableEntity, "Reference name must start with 'refs/' and have at least two slashes.")
	}
	refs, err := c.bare().refs(c.ctx())
	if err != nil {
		return reply{}, err
	}
	if refs[ask.Ref] != "" {
		return reply{}, refuse(http.StatusUnprocessableEntity, "Reference already exists")
	}
	if len(ask.SHA) != len(zeroSHA) || c.bare().commit(c.ctx(), ask.SHA) != ask.SHA {
		return reply{}, refuse(http.StatusUnprocessableEntity, "Object does not exist")
	}
	if err := s.moveRef(c, ask.Ref, ask.SHA, zeroSHA); err != nil {
		return reply{}, err
	}
	return created(s.refJSON(c.repo, ask.Ref, ask.SHA)), nil
}

func (s *Server) updateRef(c *call) (reply, error) {
	var ask struct {
		SHA   string
		Force bool
	}
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	refs, err := c.bare().refs(c.ctx())
	if err != nil {
		return reply{}, err
	}
	ref := "refs/" + c.arg("ref")
	switch {
	case refs[ref] == "":
		return reply{}, refuse(http.StatusUnprocessableEntity, "Reference does not exist")
	case len(ask.SHA) != len(zeroSHA) || c.bare().commit(c.ctx(), ask.SHA) != ask.SHA:
		return reply{}, refuse(http.StatusUnprocessableEntity, "Object does not exist")
	case !ask.Force && !c.bare().isAncestor(c.ctx(), refs[ref], ask.SHA):
		return reply{}, refuse(http.StatusUnprocessableEntity, "Update is not a fast forward")
	}
	if err := s.moveRef(c, ref, ask.SHA, refs[ref]); err != nil {
		return reply{}, err
	}
	return ok(s.refJSON(c.repo, ref, ask.SHA)), nil
}

func (s *Server) deleteRef(c *call) (reply, error) {
	refs, err := c.bare().refs(c.ctx())
	if err != nil {
		return reply{}, err
	}
	ref := "refs/" + c.arg("ref")
	if refs[ref] == "" {
		return reply{}, refuse(http.StatusUnprocessableEntity, "Reference does not exist")
	}
	if err := s.moveRef(c, ref, zeroSHA, refs[ref]); err != nil {
		return reply{}, err
	}
	return noContent, nil
}

// moveRef changes a ref as the caller and tells the world.
func (s *Server) moveRef(c *call, ref, new, old string) error {
	if slices.Contains(c.repo.Protected, strings.TrimPrefix(ref, "refs/heads/")) {
		return refuse(http.StatusUnprocessableEntity, "Cannot update this protected ref.")
	}
	if err := c.bare().setRef(c.ctx(), ref, new, old); err != nil {
		return err
	}
	return s.noticeRefs(c.ctx(), c.repo, c.who.account)
}

func (s *Server) getGitCommit(c *call) (reply, error) {
	commits, err := s.one(c, c.arg("sha"))
	if err != nil {
		return reply{}, err
	}
	return ok(s.gitCommitJSON(c.repo, commits)), nil
}

// one finds the commit that a revision names.
func (s *Server) one(c *call, rev string) (gitCommit, error) {
	sha := c.bare().commit(c.ctx(), rev)
	if sha == "" {
		return gitCommit{}, refuse(http.StatusUnprocessableEntity, "No commit found for SHA: "+rev)
	}
	commits, err := c.bare().log(c.ctx(), sha, 1)
	if err != nil {
		return gitCommit{}, err
	}
	return commits[0], nil
}

func (s *Server) listCommits(c *call) (reply, error) {
	q := c.r.URL.Query()
	rev := q.Get("sha")
	if rev == "" {
		rev = c.repo.DefaultBranch
	}
	sha := c.bare().commit(c.ctx(), rev)
	if sha == "" {
		return reply{}, errNotFound
	}
	var paths []string
	if p := q.Get("path"); p != "" {
		paths = []string{p}
	}
	commits, err := c.bare().log(c.ctx(), sha, 0, paths...)
	if err != nil {
		return reply{}, err
	}
	return ok(c.page(s.commitsJSON(c.repo, commits))), nil
}

// commitRoutes serves /commits/REF and what is below it: a branch's name may
// contain slashes, which patterns cannot say.
func (s *Server) commitRoutes(c *call) (reply, error) {
	rest := c.arg("rest")
	for suffix, h := range map[string]func(*call, string) (reply, error){
		"/check-runs": s.checksOf, "/status": s.combinedStatus, "/statuses": s.statusesOf, "/pulls": s.pullsOf,
	} {
		if rev, found := strings.CutSuffix(rest, suffix); found {
			return h(c, rev)
		}
	}
	commit, err := s.one(c, rest)
	if err != nil {
		return reply{}, err
	}
	if strings.Contains(c.r.Header.Get("Accept"), "application/vnd.github") && strings.Contains(c.r.Header.Get("Accept"), ".sha") {
		c.head.Set("Content-Type", "application/vnd.github.sha; charset=utf-8")
		c.head.Set("ETag", `"`+commit.SHA+`"`)
		return ok([]byte(commit.SHA)), nil
	}
	o := s.commitJSON(c.repo, commit)
	files, err := c.bare().diff(c.ctx(), firstParent(commit), commit.SHA)
	if err != nil {
		return reply{}, err
	}
	o["files"], o["stats"] = s.filesJSON(c.repo, commit.SHA, files), stats(files)
	return ok(o), nil
}

// emptyTree is what git calls a tree without files.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

func firstParent(c gitCommit) string {
	if len(c.Parents) == 0 {
		return emptyTree
	}
	return c.Parents[0]
}

func stats(files []changedFile) object {
	added, deleted := 0, 0
	for _, f := range files {
		added, deleted = added+f.Additions, deleted+f.Deletions
	}
	return object{"additions": added, "deletions": deleted, "total": added + deleted}
}

// comparison is what lies between two commits.
type comparison struct {
	Base, Head, MergeBase string
	Ahead, Behind         int
	Commits               []gitCommit // oldest first
	Files                 []changedFile
}

// between compares two revisions; nil if one of them or a common ancestor is missing.
func (b bare) between(ctx context.Context, base, head string) (*comparison, error) {
	d := &comparison{Base: b.commit(ctx, base), Head: b.commit(ctx, head)}
	if d.Base == "" || d.Head == "" {
		return nil, nil
	}
	if d.MergeBase = b.mergeBase(ctx, d.Base, d.Head); d.MergeBase == "" {
		return nil, nil
	}
	var err error
	if d.Commits, err = b.log(ctx, d.Base+".."+d.Head, 0); err != nil {
		return nil, err
	}
	slices.Reverse(d.Commits)
	d.Ahead = len(d.Commits)
	if d.Behind, err = b.count(ctx, d.Head, d.Base); err != nil {
		return nil, err
	}
	d.Files, err = b.diff(ctx, d.MergeBase, d.Head)
	return d, err
}

func (d *comparison) status() string {
	switch {
	case d.Ahead > 0 && d.Behind > 0:
		return "diverged"
	case d.Ahead > 0:
		return "ahead"
	case d.Behind > 0:
		return "behind"
	}
	return "identical"
}

func (s *Server) compare(c *call) (reply, error) {
	base, head, _ := strings.Cut(c.arg("range"), "...")
	d, err := c.bare().between(c.ctx(), withoutOwner(c.repo, base), withoutOwner(c.repo, head))
	if err != nil {
		return reply{}, err
	}
	if d == nil {
		return reply{}, errNotFound
	}
	baseCommit, err := s.one(c, d.Base)
	if err != nil {
		return reply{}, err
	}
	mergeBase, err := s.one(c, d.MergeBase)
	if err != nil {
		return reply{}, err
	}
	return ok(object{
		"status": d.status(), "ahead_by": d.Ahead, "behind_by": d.Behind, "total_commits": d.Ahead,
		"base_commit": s.commitJSON(c.repo, baseCommit), "merge_base_commit": s.commitJSON(c.repo, mergeBase),
		"commits": s.commitsJSON(c.repo, d.Commits), "files": s.filesJSON(c.repo, d.Head, d.Files),
		"html_url": s.pageURL("%s/compare/%s...%s", c.repo.fullName(), base, head),
	}), nil
}

// withoutOwner turns owner:branch into branch.
func withoutOwner(r *repository, name string) string {
	owner, branch, found := strings.Cut(name, ":")
	if found && strings.EqualFold(owner, r.Owner) {
		return branch
	}
	return name
}

func (s *Server) fileJSON(r *repository, rev string, e entry) object {
	kind := map[string]string{"blob": "file", "tree": "dir", "commit": "submodule"}[e.Kind]
	git := map[string]string{"blob": "blobs", "tree": "trees", "commit": "trees"}[e.Kind]
	at := object{
		"self": s.apiURL("repos/%s/contents/%s?ref=%s", r.fullName(), escapePath(e.Path), url.QueryEscape(rev)),
		"git":  s.apiURL("repos/%s/git/%s/%s", r.fullName(), git, e.SHA),
		"html": s.pageURL("%s/blob/%s/%s", r.fullName(), escapePath(rev), escapePath(e.Path)),
	}
	return object{"type": kind, "name": e.Name, "path": e.Path, "sha": e.SHA, "size": e.Size, "_links": at,
		"url": at["self"], "git_url": at["git"], "html_url": at["html"], "download_url": nil} // files are not served raw
}

func (s *Server) getContents(c *call) (reply, error) {
	rev := c.r.URL.Query().Get("ref")
	if rev == "" {
		rev = c.repo.DefaultBranch
	}
	sha := c.bare().commit(c.ctx(), rev)
	if sha == "" {
		return reply{}, refuse(http.StatusNotFound, "No commit found for the ref "+rev)
	}
	return s.contents(c, rev, sha, strings.Trim(c.arg("path"), "/"))
}

func (s *Server) contents(c *call, rev, sha, path string) (reply, error) {
	switch c.bare().kind(c.ctx(), sha, path) {
	case "tree":
		entries, err := c.bare().list(c.ctx(), sha, path)
		if err != nil {
			return reply{}, err
		}
		list := []object{}
		for _, e := range entries {
			list = append(list, s.fileJSON(c.repo, rev, e))
		}
		return ok(list), nil
	case "blob":
	default:
		return reply{}, errNotFound
	}
	text, err := c.bare().blob(c.ctx(), sha, path)
	if err != nil {
		return reply{}, err
	}
	if strings.Contains(c.r.Header.Get("Accept"), "raw") {
		c.head.Set("Content-Type", "application/vnd.github.raw; charset=utf-8")
		return ok([]byte(text)), nil
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	entries, err := c.bare().list(c.ctx(), sha, dir)
	if err != nil {
		return reply{}, err
	}
	at := slices.IndexFunc(entries, func(e entry) bool { return e.Name == name })
	o := s.fileJSON(c.repo, rev, entries[at])
	o["encoding"], o["content"] = "base64", base64.StdEncoding.EncodeToString([]byte(text))
	return ok(o), nil
}

func (s *Server) getReadme(c *call) (reply, error) {
	sha := c.bare().commit(c.ctx(), c.repo.DefaultBranch)
	return s.contents(c, c.repo.DefaultBranch, sha, "README.md")
}

// putContents commits one file to a branch.
func (s *Server) putContents(c *call) (reply, error) {
	var ask struct{ Message, Content, Branch, SHA string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if ask.Branch == "" {
		ask.Branch = c.repo.DefaultBranch
	}
	content, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(ask.Content, "\n", ""))
	if err != nil {
		return reply{}, refuse(http.StatusUnprocessableEntity, "content is not valid Base64")
	}
	parent := c.bare().branch(c.ctx(), ask.Branch)
	if parent == "" {
		return reply{}, refuse(http.StatusNotFound, "Branch "+ask.Branch+" not found")
	}
	path, status := c.arg("path"), http.StatusCreated
	if c.bare().kind(c.ctx(), parent, path) == "blob" {
		status = http.StatusOK
		if ask.SHA == "" {
			return reply{}, refuse(http.StatusUnprocessableEntity, `Invalid request. "sha" wasn't supplied.`)
		}
	}
	tree, err := c.bare().withFile(c.ctx(), parent, path, content)
	if err != nil {
		return reply{}, err
	}
	sha, err := c.bare().commitTree(c.ctx(), tree, ask.Message, s.stampOf(c.who.account), s.stampOf(c.who.account), parent)
	if err != nil {
		return reply{}, err
	}
	if err := s.moveRef(c, "refs/heads/"+ask.Branch, sha, parent); err != nil {
		return reply{}, err
	}
	commit, err := s.one(c, sha)
	if err != nil {
		return reply{}, err
	}
	return reply{status, object{"content": object{"path": path, "type": "file"}, "commit": s.gitCommitJSON(c.repo, commit)}}, nil
}

// stampOf credits an account, now.
func (s *Server) stampOf(a *account) stamp {
	return stamp{Name: a.Name, Email: a.noreply(), At: s.now().UTC().Truncate(time.Second)}
}
