package github

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// RunJob is GitHub Actions having run a job on a commit: a check run of its App,
// with the log that the job printed. Jobs on one commit are of one run of one
// workflow. Nothing runs workflows here.
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
	if others := s.jobs(r, func(other *checkRun) bool { return other.SHA == sha }); len(others) > 0 {
		k.Run, k.Branch = others[0].Run, others[0].Branch
	} else {
		k.Run, k.Branch = s.nextID(), branchAt(r, sha)
	}
	s.checks.put(idKey(k.ID), k)
	s.emit("check_run", "completed", r, s.bot(), object{"check_run": s.checkJSON(k)})
	return nil
}

// branchAt is a branch whose head is the commit, or empty.
func branchAt(r *repository, sha string) string {
	for ref, at := range r.Refs {
		if branch, is := strings.CutPrefix(ref, "refs/heads/"); is && at == sha {
			return branch
		}
	}
	return ""
}

// jobs lists a repository's jobs, oldest first.
func (s *Server) jobs(r *repository, want func(*checkRun) bool) []*checkRun {
	return sorted(s.checks, func(k *checkRun) bool { return k.Job && k.Repository == r.fullName() && want(k) }, func(k *checkRun) int64 { return k.ID })
}

const (
	workflowID   = 62000001
	workflowName = "CI"
	workflowPath = ".github/workflows/ci.yml"
)

func (s *Server) jobJSON(k *checkRun) object {
	run := s.apiURL("repos/%s/actions/runs/%d", k.Repository, k.Run)
	return object{
		"id": k.ID, "node_id": "CR_" + idKey(k.ID), "run_id": k.Run, "run_url": run, "run_attempt": 1, "head_sha": k.SHA,
		"head_branch": orNull(k.Branch), "workflow_name": workflowName, "name": k.Name, "status": k.Status, "conclusion": orNull(k.Conclusion),
		"created_at": date(k.StartedAt), "started_at": date(k.StartedAt), "completed_at": maybeTime(k.CompletedAt),
		"url":           s.apiURL("repos/%s/actions/jobs/%d", k.Repository, k.ID),
		"html_url":      s.pageURL("%s/commit/%s/checks/%d", k.Repository, k.SHA, k.ID),
		"check_run_url": s.apiURL("repos/%s/check-runs/%d", k.Repository, k.ID),
		"labels":        []string{"ubuntu-latest"}, "steps": []object{},
		"runner_id": nil, "runner_name": nil, "runner_group_id": nil, "runner_group_name": nil,
	}
}

// runJSON is the run that jobs are of, the first of which says what all share.
func (s *Server) runJSON(c *call, jobs []*checkRun) (object, error) {
	k := jobs[0]
	commit, err := s.one(c, k.SHA)
	if err != nil {
		return nil, err
	}
	conclusion := "success"
	for _, job := range jobs {
		if job.Conclusion != "success" && job.Conclusion != "skipped" && job.Conclusion != "neutral" {
			conclusion = "failure"
		}
	}
	at := s.apiURL("repos/%s/actions/runs/%d", k.Repository, k.Run)
	o := object{
		"id": k.Run, "node_id": "WFR_" + idKey(k.Run), "name": workflowName, "path": workflowPath, "workflow_id": workflowID, "run_number": 1,
		"run_attempt": 1, "event": "push", "status": "completed", "conclusion": conclusion, "head_branch": orNull(k.Branch), "head_sha": k.SHA,
		"display_title": strings.SplitN(commit.Message, "\n", 2)[0], "created_at": date(k.StartedAt), "updated_at": date(k.StartedAt),
		"run_started_at": date(k.StartedAt), "pull_requests": []object{}, "repository": s.repoJSON(c.repo, c.who),
		"head_repository": s.repoJSON(c.repo, c.who), "check_suite_id": s.suite(k), "url": at,
		"html_url":        s.pageURL("%s/actions/runs/%d", k.Repository, k.Run),
		"check_suite_url": s.apiURL("repos/%s/check-suites/%d", k.Repository, s.suite(k)),
		"workflow_url":    s.apiURL("repos/%s/actions/workflows/%d", k.Repository, workflowID),
		"head_commit": object{"id": commit.SHA, "tree_id": commit.Tree, "message": commit.Message, "timestamp": date(commit.Committer.At),
			"author":    object{"name": commit.Author.Name, "email": commit.Author.Email},
			"committer": object{"name": commit.Committer.Name, "email": commit.Committer.Email}},
	}
	addLinks(o, at, map[string]string{"jobs_url": "/jobs", "logs_url": "/logs", "cancel_url": "/cancel", "rerun_url": "/rerun", "artifacts_url": "/artifacts"})
	return o, nil
}

// listRuns lists the runs of workflows, newest first.
func (s *Server) listRuns(c *call) (reply, error) {
	q := c.r.URL.Query()
	wanted := func(filter, value string) bool { return q.Get(filter) == "" || q.Get(filter) == value }
	all := s.jobs(c.repo, func(k *checkRun) bool { return wanted("head_sha", k.SHA) && wanted("branch", k.Branch) })
	byRun, list := map[int64][]*checkRun{}, []object{}
	for _, k := range all {
		byRun[k.Run] = append(byRun[k.Run], k)
	}
	for _, run := range slices.Backward(slices.Sorted(maps.Keys(byRun))) {
		o, err := s.runJSON(c, byRun[run])
		if err != nil {
			return reply{}, err
		}
		if wanted("status", "completed") || q.Get("status") == o["conclusion"] {
			list = append(list, o)
		}
	}
	return ok(object{"total_count": len(list), "workflow_runs": c.page(list)}), nil
}

// run finds the jobs of the run of a route.
func (c *call) run() ([]*checkRun, error) {
	jobs := c.s.jobs(c.repo, func(k *checkRun) bool { return k.Run == c.number("id") })
	if len(jobs) == 0 {
		return nil, errNotFound
	}
	return jobs, nil
}

func (s *Server) getRun(c *call) (reply, error) {
	jobs, err := c.run()
	if err != nil {
		return reply{}, err
	}
	o, err := s.runJSON(c, jobs)
	return ok(o), err
}

func (s *Server) runJobs(c *call) (reply, error) {
	jobs, err := c.run()
	if err != nil {
		return reply{}, err
	}
	list := []object{}
	for _, k := range jobs {
		list = append(list, s.jobJSON(k))
	}
	return ok(object{"total_count": len(list), "jobs": c.page(list)}), nil
}

// job finds the job of a route. Its number is that of its check run.
func (c *call) job() (*checkRun, error) {
	k, err := c.check()
	if err != nil || !k.Job {
		return nil, errNotFound
	}
	return k, nil
}

func (s *Server) getJob(c *call) (reply, error) {
	k, err := c.job()
	if err != nil {
		return reply{}, err
	}
	return ok(s.jobJSON(k)), nil
}

// jobLogs sends to where a job's log is, which needs no credential. As GitHub's it
// is another origin, so that clients that follow leave the token behind.
func (s *Server) jobLogs(c *call) (reply, error) {
	k, err := c.job()
	if err != nil {
		return reply{}, err
	}
	at, err := url.Parse(s.pageURL("actions-logs/%d", k.ID))
	if err != nil {
		return reply{}, err
	}
	if at.Hostname() == "127.0.0.1" {
		at.Host = strings.Replace(at.Host, "127.0.0.1", "localhost", 1)
	}
	c.head.Set("Location", at.String())
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
