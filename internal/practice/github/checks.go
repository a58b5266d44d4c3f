package github

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

func (s *Server) checkJSON(k *checkRun) object {
	return object{
		"id": k.ID, "node_id": "CR_" + idKey(k.ID), "name": k.Name, "head_sha": k.SHA, "status": k.Status, "conclusion": orNull(k.Conclusion),
		"details_url": orNull(k.DetailsURL), "external_id": k.ExternalID, "started_at": date(k.StartedAt), "completed_at": maybeTime(k.CompletedAt),
		"output": object{"title": orNull(k.Title), "summary": orNull(k.Summary), "text": orNull(k.Text),
			"annotations_count": len(k.Annotations), "annotations_url": s.apiURL("repos/%s/check-runs/%d/annotations", k.Repository, k.ID)},
		"app": s.checkApp(k), "pull_requests": []object{}, "html_url": s.pageURL("%s/commit/%s/checks/%d", k.Repository, k.SHA, k.ID),
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
const actionsApp = "github-actions"

func (s *Server) checkApp(k *checkRun) object {
	app := s.appJSON()
	if k.Job {
		app["id"], app["slug"], app["name"] = 15368, actionsApp, "GitHub Actions"
	}
	return app
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
			"message": n.Message, "title": orNull(n.Title), "raw_details": nil, "blob_href": s.pageURL("%s/blob/%s/%s", k.Repository, k.SHA, n.Path)})
	}
	return ok(c.page(list)), nil
}

// RunJob is GitHub Actions having run a job on a commit: a check run of its App,
// with the log that the job printed. Nothing runs workflows here.
func (s *Server) RunJob(repository, sha, name, conclusion, log string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos.get(strings.ToLower(repository))
	if r == nil || !checkConclusions[conclusion] {
		return fmt.Errorf("no repository %s, or no conclusion %s", repository, conclusion)
	}
	now := s.now().UTC()
	k := &checkRun{ID: s.nextID(), Repository: r.fullName(), SHA: sha, Name: name, Status: "completed", Conclusion: conclusion,
		StartedAt: now, CompletedAt: &now, Job: true, Log: log}
	s.checks.put(idKey(k.ID), k)
	s.emit("check_run", "completed", r, s.bot(), object{"check_run": s.checkJSON(k)})
	return nil
}

// jobLogs sends to where a job's log is, which needs no credential.
func (s *Server) jobLogs(c *call) (reply, error) {
	k, err := c.check()
	if err != nil || !k.Job {
		return reply{}, errNotFound
	}
	c.head.Set("Location", s.pageURL("actions-logs/%d", k.ID))
	return reply{status: http.StatusFound}, nil
}

// serveJobLog is that place.
func (s *Server) serveJobLog(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	k := s.checks.get(r.PathValue("id"))
	s.mu.Unlock()
	if k == nil || !k.Job || r.Header.Get("Authorization") != "" {
		http.Error(w, "AuthenticationFailed", http.StatusBadRequest) // as the storage behind GitHub answers a token
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(k.Log)) // who asked may be gone
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
	return object{"id": t.ID, "state": t.State, "context": t.Context, "description": orNull(t.Description), "target_url": orNull(t.TargetURL),
		"creator": s.login(t.Creator), "created_at": date(t.At), "updated_at": date(t.At),
		"url": s.apiURL("repos/%s/statuses/%s", t.Repository, t.SHA)}
}

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
		return reply{}, invalid("Status", "state", "invalid")
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
	return ok(object{"state": state, "sha": sha, "total_count": len(list), "statuses": c.page(list), "repository": s.repoJSON(c.repo, c.who)}), nil
}

// listRuns is empty: nothing runs workflows here.
func (s *Server) listRuns(*call) (reply, error) {
	return ok(object{"total_count": 0, "workflow_runs": []object{}}), nil
}

func (s *Server) noSuchRun(*call) (reply, error) { return reply{}, errNotFound }
