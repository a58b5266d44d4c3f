package github

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

func (s *Server) checkJSON(k *checkRun) object {
	return object{
		"id": k.ID, "node_id": "CR_" + idKey(k.ID), "name": k.Name, "head_sha": k.SHA, "status": k.Status, "conclusion": orNull(k.Conclusion),
		"details_url": orNull(k.DetailsURL), "external_id": k.ExternalID, "started_at": date(k.StartedAt), "completed_at": maybeTime(k.CompletedAt),
		"output": object{"title": orNull(k.Title), "summary": orNull(k.Summary), "text": orNull(k.Text),
			"annotations_count": len(k.Annotations), "annotations_url": s.apiURL("repos/%s/check-runs/%d/annotations", k.Repository, k.ID)},
		"app": s.checkApp(k), "check_suite": object{"id": s.suite(k)}, "pull_requests": []object{}, "html_url": s.pageURL("%s/commit/%s/checks/%d", k.Repository, k.SHA, k.ID),
		"url": s.apiURL("repos/%s/check-runs/%d", k.Repository, k.ID),
	}
}

// checkRequest is a check run made or changed; nil leaves a field as it is.
type checkRequest struct {
	Name, Status, Conclusion *string
	HeadSHA                  string     `json:"head_sha"`
	DetailsURL               *string    `json:"details_url"`
	ExternalID               *string    `json:"external_id"`
	StartedAt                *time.Time `json:"started_at"`
	CompletedAt              *time.Time `json:"completed_at"`
	Output                   *struct {
		Title, Summary, Text *string
		Annotations          []annotation
	}
}

// annotation is a remark of a check run on lines of a file.
type annotation struct {
	Path      string `json:"path"`
	StartLine int    `json:"start_line"`
	EndLine   int    `json:"end_line"`
	Level     string `json:"annotation_level"`
	Message   string `json:"message"`
	Title     string `json:"title"`
}

var annotationLevels = map[string]bool{"notice": true, "warning": true, "failure": true}

// actionsApp is the App whose check runs are jobs of GitHub Actions.
const (
	actionsApp   = "github-actions"
	actionsAppID = 15368
)

// maxAnnotations is how many a request may bring (docs.github.com/rest/checks/runs).
const maxAnnotations = 50

func (s *Server) checkApp(k *checkRun) object {
	app := s.appJSON()
	if k.Job {
		app["id"], app["slug"], app["name"] = actionsAppID, actionsApp, "GitHub Actions"
		delete(app, "client_id")
	}
	return app
}

// suite is the number of the check suite, which an App has one of on a commit:
// that of its first check run.
func (s *Server) suite(k *checkRun) int64 {
	first := k.ID
	for _, other := range s.checks.rows {
		if other.Repository == k.Repository && other.SHA == k.SHA && other.Job == k.Job {
			first = min(first, other.ID)
		}
	}
	return first
}

var checkStatuses = map[string]bool{"queued": true, "in_progress": true, "completed": true}

var checkConclusions = map[string]bool{"action_required": true, "cancelled": true, "failure": true, "neutral": true,
	"success": true, "skipped": true, "stale": true, "timed_out": true}

// apply changes a check run as asked, or says what is wrong.
func (k *checkRun) apply(ask checkRequest, now time.Time) error {
	set := func(to *string, v *string) {
		if v != nil {
			*to = *v
		}
	}
	set(&k.Name, ask.Name)
	set(&k.Status, ask.Status)
	set(&k.Conclusion, ask.Conclusion)
	set(&k.DetailsURL, ask.DetailsURL)
	set(&k.ExternalID, ask.ExternalID)
	if ask.Output != nil {
		if n := len(ask.Output.Annotations); n > maxAnnotations {
			return refuse(http.StatusUnprocessableEntity, fmt.Sprintf("Invalid request.\n\nNo more than %d items are allowed; %d were supplied.", maxAnnotations, n))
		}
		set(&k.Title, ask.Output.Title)
		set(&k.Summary, ask.Output.Summary)
		set(&k.Text, ask.Output.Text)
		for _, n := range ask.Output.Annotations { // each request adds to them
			if n.Path == "" || n.Message == "" || n.StartLine < 1 || n.EndLine < n.StartLine || !annotationLevels[n.Level] {
				return invalid("CheckRun", "annotations", "invalid")
			}
			k.Annotations = append(k.Annotations, n)
		}
	}
	if ask.StartedAt != nil {
		k.StartedAt = *ask.StartedAt
	}
	if ask.Conclusion != nil {
		k.Status = "completed"
	}
	switch {
	case k.Name == "":
		return invalid("CheckRun", "name", "missing_field")
	case !checkStatuses[k.Status]:
		return invalid("CheckRun", "status", "invalid")
	case k.Status == "completed" && !checkConclusions[k.Conclusion]:
		return invalid("CheckRun", "conclusion", "missing_field")
	}
	k.CompletedAt = nil
	if k.Status == "completed" {
		k.CompletedAt = &now
		if ask.CompletedAt != nil {
			k.CompletedAt = ask.CompletedAt
		}
	}
	return nil
}

func (s *Server) createCheck(c *call) (reply, error) {
	var ask checkRequest
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if len(ask.HeadSHA) != len(zeroSHA) || c.bare().commit(c.ctx(), ask.HeadSHA) == "" {
		return reply{}, refuse(http.StatusUnprocessableEntity, "No commit found for SHA: "+ask.HeadSHA)
	}
	now := s.now().UTC()
	k := &checkRun{Repository: c.repo.fullName(), SHA: ask.HeadSHA, Status: "queued", StartedAt: now}
	if err := k.apply(ask, now); err != nil {
		return reply{}, err
	}
	k.ID = s.nextID()
	return created(s.keepCheck(c, k, "created")), nil
}

func (s *Server) keepCheck(c *call, k *checkRun, action string) object {
	s.checks.put(idKey(k.ID), k)
	if k.Status == "completed" {
		action = "completed"
	}
	s.emit("check_run", action, c.repo, c.who.account, object{"check_run": s.checkJSON(k)})
	return s.checkJSON(k)
}

// check finds the check run of a route.
func (c *call) check() (*checkRun, error) {
	k := c.s.checks.get(c.arg("id"))
	if k == nil || k.Repository != c.repo.fullName() {
		return nil, errNotFound
	}
	return k, nil
}

func (s *Server) getCheck(c *call) (reply, error) {
	k, err := c.check()
	if err != nil {
		return reply{}, err
	}
	return ok(s.checkJSON(k)), nil
}

func (s *Server) checkAnnotations(c *call) (reply, error) {
	k, err := c.check()
	if err != nil {
		return reply{}, err
	}
	list := []object{}
	for _, n := range k.Annotations {
		list = append(list, object{"path": n.Path, "start_line": n.StartLine, "end_line": n.EndLine, "annotation_level": n.Level,
			"start_column": nil, "end_column": nil, "message": n.Message, "title": orNull(n.Title), "raw_details": nil, "blob_href": s.pageURL("%s/blob/%s/%s", k.Repository, k.SHA, escapePath(n.Path))})
	}
	return ok(c.page(list)), nil
}

func (s *Server) updateCheck(c *call) (reply, error) {
	k, err := c.check()
	if err != nil {
		return reply{}, err
	}
	var ask checkRequest
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if k.Job {
		return reply{}, refuse(http.StatusForbidden, fmt.Sprintf("Invalid app_id `%d` - check run can only be modified by the GitHub App that created it.", actionsAppID))
	}
	changed := *k
	if err := changed.apply(ask, s.now().UTC()); err != nil {
		return reply{}, err
	}
	return ok(s.keepCheck(c, &changed, "created")), nil
}

// checksOf lists the check runs of a commit; of those with one name only the
// latest, unless all are asked for.
func (s *Server) checksOf(c *call, rev string) (reply, error) {
	sha := c.bare().commit(c.ctx(), rev)
	if sha == "" {
		return reply{}, refuse(http.StatusUnprocessableEntity, "No commit found for SHA: "+rev)
	}
	if !c.who.may(c.repo, "checks", reading, reading) {
		return reply{}, errForbidden
	}
	q := c.r.URL.Query()
	latest := map[string]int64{}
	all := sorted(s.checks, func(k *checkRun) bool {
		return k.SHA == sha && k.Repository == c.repo.fullName() &&
			(q.Get("check_name") == "" || q.Get("check_name") == k.Name) && (q.Get("status") == "" || q.Get("status") == k.Status)
	}, func(k *checkRun) int64 { return k.ID })
	for _, k := range all {
		latest[k.Name] = k.ID
	}
	list := []object{}
	for _, k := range all {
		if q.Get("filter") == "all" || latest[k.Name] == k.ID {
			list = append(list, s.checkJSON(k))
		}
	}
	return ok(object{"total_count": len(list), "check_runs": c.page(list)}), nil
}

func (s *Server) statusJSON(t *commitStatus) object {
	creator := s.login(t.Creator)
	return object{"id": t.ID, "node_id": "SC_" + idKey(t.ID), "avatar_url": creator["avatar_url"], "state": t.State, "context": t.Context, "description": orNull(t.Description), "target_url": orNull(t.TargetURL),
		"creator": creator, "created_at": date(t.At), "updated_at": date(t.At),
		"url": s.apiURL("repos/%s/statuses/%s", t.Repository, t.SHA)}
}

// maxDescription is how many characters of it a status may have.
const maxDescription = 140

func (s *Server) createStatus(c *call) (reply, error) {
	var ask struct {
		State, Context, Description string
		TargetURL                   string `json:"target_url"`
	}
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	sha := c.bare().commit(c.ctx(), c.arg("sha"))
	if sha == "" {
		return reply{}, refuse(http.StatusUnprocessableEntity, "No commit found for SHA: "+c.arg("sha"))
	}
	if !strings.Contains(" error failure pending success ", " "+ask.State+" ") || ask.State == "" {
		return reply{}, invalidField("Status", "state", "is not included in the list")
	}
	if n := utf8.RuneCountInString(ask.Description); n > maxDescription {
		return reply{}, invalidField("Status", "description", fmt.Sprintf("is too long (maximum is %d characters)", maxDescription))
	}
	if ask.Context == "" {
		ask.Context = "default"
	}
	t := &commitStatus{ID: s.nextID(), Repository: c.repo.fullName(), SHA: sha, State: ask.State, Context: ask.Context,
		Description: ask.Description, TargetURL: ask.TargetURL, Creator: c.who.account.Login, At: s.now().UTC()}
	s.statuses.put(idKey(t.ID), t)
	s.emit("status", "", c.repo, c.who.account, object{"id": t.ID, "sha": sha, "state": t.State, "context": t.Context,
		"description": orNull(t.Description), "target_url": orNull(t.TargetURL), "created_at": date(t.At), "updated_at": date(t.At)})
	return created(s.statusJSON(t)), nil
}

// statusList is the statuses of a commit, newest first.
func (s *Server) statusList(c *call, rev string) (sha string, all []*commitStatus, err error) {
	if sha = c.bare().commit(c.ctx(), rev); sha == "" {
		return "", nil, errNotFound
	}
	if !c.who.may(c.repo, "statuses", reading, reading) {
		return "", nil, errForbidden
	}
	return sha, sorted(s.statuses, func(t *commitStatus) bool { return t.SHA == sha && t.Repository == c.repo.fullName() },
		func(t *commitStatus) int64 { return -t.ID }), nil
}

func (s *Server) statusesOf(c *call, rev string) (reply, error) {
	_, all, err := s.statusList(c, rev)
	if err != nil {
		return reply{}, err
	}
	list := []object{}
	for _, t := range all {
		list = append(list, s.statusJSON(t))
	}
	return ok(c.page(list)), nil
}

func (s *Server) combinedStatus(c *call, rev string) (reply, error) {
	sha, all, err := s.statusList(c, rev)
	if err != nil {
		return reply{}, err
	}
	seen := map[string]bool{}
	list := []object{}
	count := map[string]int{}
	for _, t := range all {
		if !seen[t.Context] {
			seen[t.Context] = true
			list = append(list, s.statusJSON(t))
			count[t.State]++
		}
	}
	state := "pending" // also when there are none
	switch {
	case count["failure"]+count["error"] > 0:
		state = "failure"
	case len(list) > 0 && count["success"] == len(list):
		state = "success"
	}
	at := s.apiURL("repos/%s/commits/%s", c.repo.fullName(), sha)
	return ok(object{"state": state, "sha": sha, "total_count": len(list), "statuses": c.page(list), "repository": s.repoJSON(c.repo, c.who),
		"commit_url": at, "url": at + "/status"}), nil
}
