package github

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maybeTime is a date, or null.
func maybeTime(t *time.Time) any {
	if t == nil || t.IsZero() {
		return nil
	}
	return t.UTC().Truncate(time.Second)
}

func date(t time.Time) any { return maybeTime(&t) }

// orNull is a text, or null instead of none.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// orNone is a number, or null instead of 0.
func orNone(n int) any {
	if n == 0 {
		return nil
	}
	return n
}

func (s *Server) accountJSON(a *account) object {
	if a == nil {
		return nil
	}
	page, at := s.pageURL("%s", a.Login), s.apiURL("users/%s", url.PathEscape(a.Login)) // a bot's has brackets
	if a.Type == "Bot" {
		page = s.pageURL("apps/%s", appSlug)
	}
	o := object{
		"id": a.ID, "login": a.Login, "type": a.Type, "site_admin": false, "node_id": fmt.Sprintf("U_%d", a.ID),
		"avatar_url": s.pageURL("avatars/%d", a.ID), "gravatar_id": "", "html_url": page, "url": at,
	}
	addLinks(o, at, accountLinks)
	return o
}

// profileJSON is an account as GET /user shows it.
func (s *Server) profileJSON(a *account) object {
	o := s.accountJSON(a)
	o["name"], o["email"], o["company"], o["bio"] = a.Name, nil, nil, nil
	return o
}

func (s *Server) login(login string) object { return s.accountJSON(s.accounts.get(login)) }

func (s *Server) repoJSON(r *repository, who caller) object {
	o := object{
		"id": r.ID, "node_id": fmt.Sprintf("R_%d", r.ID), "name": r.Name, "full_name": r.fullName(), "private": r.Private,
		"owner": s.login(r.Owner), "description": orNull(r.Description), "default_branch": r.DefaultBranch, "fork": false,
		"archived": false, "disabled": false, "visibility": "public", "language": nil, "topics": []string{},
		"html_url": s.pageURL("%s", r.fullName()), "url": s.apiURL("repos/%s", r.fullName()),
		"clone_url": s.pageURL("%s.git", r.fullName()), "git_url": s.pageURL("%s.git", r.fullName()),
		"created_at": date(r.CreatedAt), "updated_at": date(r.PushedAt), "pushed_at": date(r.PushedAt),
		"allow_merge_commit": true, "allow_squash_merge": true, "allow_rebase_merge": false,
		"svn_url": s.pageURL("%s", r.fullName()), "ssh_url": s.pageURL("%s.git", r.fullName()), "mirror_url": nil, "homepage": nil,
		"license": nil, "size": 0, "forks": 0, "forks_count": 0, "stargazers_count": 0, "watchers": 0, "watchers_count": 0,
		"has_issues": true, "has_projects": false, "has_wiki": false, "has_pages": false, "has_downloads": false,
	}
	open := s.openPulls(r) // GitHub counts pull requests as issues
	o["open_issues"], o["open_issues_count"] = open, open
	addLinks(o, s.apiURL("repos/%s", r.fullName()), repositoryLinks)
	if r.Private {
		o["visibility"] = "private"
	}
	role := nothing
	switch who.kind {
	case byUser:
		role = max(r.Roles[who.account.Login], publicRole(r))
	case byInstallation:
		role = who.token.Permissions["contents"]
	}
	o["permissions"] = object{"pull": role >= reading, "triage": role >= writing, "push": role >= writing,
		"maintain": role >= administering, "admin": role >= administering}
	return o
}

// side is one end of a pull request.
func (s *Server) side(r *repository, branch, sha string) object {
	return object{"label": r.Owner + ":" + branch, "ref": branch, "sha": sha, "user": s.login(r.Owner), "repo": s.repoJSON(r, caller{})}
}

func (s *Server) pullJSON(p *pull) object {
	r := s.repos.get(strings.ToLower(p.Repository))
	o := object{
		"id": p.ID, "node_id": pullNode(p), "number": p.Number, "state": p.state(), "locked": false, "title": p.Title,
		"body": orNull(p.Body), "draft": p.Draft, "user": s.login(p.Author), "author_association": "MEMBER",
		"created_at": date(p.CreatedAt), "updated_at": date(p.UpdatedAt), "closed_at": maybeTime(p.ClosedAt),
		"merged_at": maybeTime(p.MergedAt), "merge_commit_sha": orNull(p.MergeSHA), "auto_merge": nil, "milestone": nil,
		"head": s.side(r, p.Head, p.HeadSHA), "base": s.side(r, p.Base, p.BaseSHA),
		"labels": s.labelsJSON(p.Labels), "assignees": s.people(p.Assignees), "assignee": first(s.people(p.Assignees)),
		"requested_reviewers": s.people(p.Reviewers), "requested_teams": []object{},
	}
	maps.Copy(o, s.pullLinks(p))
	return o
}

// pullNode is a pull request's id in GraphQL.
func pullNode(p *pull) string { return fmt.Sprintf("PR_%d", p.ID) }

// fullPullJSON is a pull request by itself, with what lists leave out.
func (s *Server) fullPullJSON(p *pull) object {
	o := s.pullJSON(p)
	o["merged"], o["merged_by"] = p.MergedAt != nil, s.login(p.MergedBy)
	o["commits"], o["changed_files"], o["additions"], o["deletions"] = p.Commits, p.Files, p.Additions, p.Deletions
	o["comments"] = len(s.commentsOn(p))
	o["review_comments"] = len(sorted(s.inline, func(c *reviewComment) bool { return c.Pull == p.key() }, inlineID))
	o["maintainer_can_modify"], o["rebaseable"] = false, false
	o["mergeable"], o["mergeable_state"] = nil, "unknown"
	if p.ClosedAt == nil {
		o["mergeable"], o["mergeable_state"] = p.Mergeable, mergeableState(p)
	}
	return o
}

func mergeableState(p *pull) string {
	switch {
	case !p.Mergeable:
		return "dirty"
	case p.Draft:
		return "draft"
	}
	return "clean"
}

// issueJSON is a pull request as the API of issues shows it.
func (s *Server) issueJSON(p *pull) object {
	pr := s.pullJSON(p)
	o := object{"pull_request": object{"url": pr["url"], "html_url": pr["html_url"], "diff_url": pr["diff_url"],
		"patch_url": pr["patch_url"], "merged_at": pr["merged_at"]}}
	for _, k := range []string{"id", "number", "state", "locked", "title", "body", "draft", "user", "author_association", "created_at",
		"updated_at", "closed_at", "labels", "assignees", "assignee", "milestone", "html_url", "comments_url", "node_id"} {
		o[k] = pr[k]
	}
	o["url"], o["repository_url"] = pr["issue_url"], s.apiURL("repos/%s", p.Repository)
	o["comments"] = len(s.commentsOn(p))
	o["events_url"], o["labels_url"] = fmt.Sprintf("%s/events", o["url"]), fmt.Sprintf("%s/labels{/name}", o["url"])
	return o
}

func (s *Server) people(logins []string) []object {
	list := []object{}
	for _, login := range logins {
		list = append(list, s.login(login))
	}
	return list
}

func first(list []object) any {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

func (s *Server) labelsJSON(labels []label) []object {
	list := []object{}
	for _, l := range labels {
		list = append(list, object{"id": l.ID, "node_id": "LA_" + idKey(l.ID), "name": l.Name, "color": l.Color, "description": orNull(l.Description), "default": false,
			"url": s.apiURL("repos/%s/labels/%s", l.Repository, escapePath(l.Name))})
	}
	return list
}

// reactionsJSON counts the reactions to what is at an address.
func reactionsJSON(to string, list []reaction) object {
	o := object{"total_count": len(list), "url": to + "/reactions"}
	for _, content := range reactionContents {
		o[content] = 0
	}
	for _, r := range list {
		o[r.Content] = o[r.Content].(int) + 1
	}
	return o
}

var reactionContents = []string{"+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes"}

func (s *Server) commentJSON(p *pull, c *comment) object {
	at := s.apiURL("repos/%s/issues/comments/%d", p.Repository, c.ID)
	return object{
		"id": c.ID, "node_id": fmt.Sprintf("IC_%d", c.ID), "body": c.Body, "user": s.login(c.Author), "author_association": "MEMBER",
		"created_at": date(c.CreatedAt), "updated_at": date(c.UpdatedAt), "reactions": reactionsJSON(at, c.Reactions),
		"html_url":  s.pageURL("%s/pull/%d#issuecomment-%d", p.Repository, p.Number, c.ID),
		"url":       at,
		"issue_url": s.apiURL("repos/%s/issues/%d", p.Repository, p.Number),
	}
}

func (s *Server) reviewJSON(p *pull, r *review) object {
	page := fmt.Sprintf("%s#pullrequestreview-%d", s.pageURL("%s/pull/%d", p.Repository, p.Number), r.ID)
	pull := s.apiURL("repos/%s/pulls/%d", p.Repository, p.Number)
	return object{
		"id": r.ID, "node_id": fmt.Sprintf("PRR_%d", r.ID), "user": s.login(r.Author), "body": r.Body, "state": r.State,
		"commit_id": r.CommitSHA, "submitted_at": date(r.SubmittedAt), "author_association": "MEMBER",
		"html_url": page, "pull_request_url": pull, "_links": links(object{"html": page, "pull_request": pull}),
	}
}

func (s *Server) inlineJSON(p *pull, c *reviewComment) object {
	at := s.apiURL("repos/%s/pulls/comments/%d", p.Repository, c.ID)
	o := object{
		"id": c.ID, "node_id": fmt.Sprintf("PRRC_%d", c.ID), "pull_request_review_id": c.Review, "user": s.login(c.Author), "body": c.Body,
		"path": c.Path, "line": orNone(c.Line), "original_line": c.Original.Line, "side": c.Side, "start_line": nil, "subject_type": "line",
		"position": orNone(c.Position), "original_position": c.Original.Position, "diff_hunk": c.DiffHunk, "start_side": nil, "original_start_line": nil,
		"commit_id": c.CommitSHA, "original_commit_id": c.Original.CommitSHA, "author_association": "MEMBER",
		"created_at": date(c.CreatedAt), "updated_at": date(c.UpdatedAt), "reactions": reactionsJSON(at, c.Reactions),
		"html_url":         s.pageURL("%s/pull/%d#discussion_r%d", p.Repository, p.Number, c.ID),
		"url":              at,
		"pull_request_url": s.apiURL("repos/%s/pulls/%d", p.Repository, p.Number),
	}
	o["_links"] = links(object{"self": o["url"], "html": o["html_url"], "pull_request": o["pull_request_url"]})
	if c.ReplyTo != 0 {
		o["in_reply_to_id"] = c.ReplyTo
	}
	return o
}

var noreplyID = regexp.MustCompile(`^(\d+)\+[^@]+@users\.noreply\.github\.com$`)

// accountOf finds whom a commit's address credits: by the id of a noreply address.
func (s *Server) accountOf(email string) *account {
	m := noreplyID.FindStringSubmatch(email)
	if m == nil {
		return nil
	}
	id, _ := strconv.ParseInt(m[1], 10, 64)
	return s.accountByID(id)
}

func (s *Server) accountByID(id int64) *account {
	for _, a := range s.accounts.rows {
		if a.ID == id {
			return a
		}
	}
	return nil
}

func stampJSON(t stamp) object { return object{"name": t.Name, "email": t.Email, "date": date(t.At)} }

func (s *Server) gitCommitJSON(r *repository, c gitCommit) object {
	parents := []object{}
	for _, p := range c.Parents {
		parents = append(parents, object{"sha": p, "url": s.apiURL("repos/%s/commits/%s", r.fullName(), p), "html_url": s.pageURL("%s/commit/%s", r.fullName(), p)})
	}
	return object{
		"sha": c.SHA, "message": c.Message, "author": stampJSON(c.Author), "committer": stampJSON(c.Committer),
		"tree": object{"sha": c.Tree, "url": s.apiURL("repos/%s/git/trees/%s", r.fullName(), c.Tree)}, "comment_count": 0, "parents": parents, "url": s.apiURL("repos/%s/git/commits/%s", r.fullName(), c.SHA),
		"html_url":     s.pageURL("%s/commit/%s", r.fullName(), c.SHA),
		"verification": object{"verified": false, "reason": "unsigned", "signature": nil, "payload": nil, "verified_at": nil},
	}
}

func (s *Server) commitJSON(r *repository, c gitCommit) object {
	inner := s.gitCommitJSON(r, c)
	at := s.apiURL("repos/%s/commits/%s", r.fullName(), c.SHA)
	return object{
		"sha": c.SHA, "node_id": "C_" + c.SHA, "commit": inner, "parents": inner["parents"],
		"author": s.accountJSON(s.accountOf(c.Author.Email)), "committer": s.accountJSON(s.accountOf(c.Committer.Email)),
		"url": at, "comments_url": at + "/comments", "html_url": s.pageURL("%s/commit/%s", r.fullName(), c.SHA),
	}
}

func (s *Server) commitsJSON(r *repository, commits []gitCommit) []object {
	list := []object{}
	for _, c := range commits {
		list = append(list, s.commitJSON(r, c))
	}
	return list
}

func (s *Server) filesJSON(r *repository, sha string, files []changedFile) []object {
	list := []object{}
	for _, f := range files {
		o := object{
			"filename": f.Name, "status": f.Status, "sha": f.Blob, "additions": f.Additions, "deletions": f.Deletions,
			"changes":      f.Additions + f.Deletions,
			"blob_url":     s.pageURL("%s/blob/%s/%s", r.fullName(), sha, escapePath(f.Name)),
			"raw_url":      s.pageURL("%s/raw/%s/%s", r.fullName(), sha, escapePath(f.Name)),
			"contents_url": s.apiURL("repos/%s/contents/%s?ref=%s", r.fullName(), escapePath(f.Name), sha),
		}
		if !f.Binary && len(f.Fragments) > 0 {
			o["patch"] = f.patch()
		}
		if f.OldName != "" {
			o["previous_filename"] = f.OldName
		}
		list = append(list, o)
	}
	return list
}
