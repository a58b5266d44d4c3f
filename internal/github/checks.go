package github

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	gh "github.com/google/go-github/v62/github"

	"openinspect/sessions"
)

const (
	maxAnnotations = 30       // of one check run
	maxJobLog      = 64 << 10 // bytes of a log's end
)

// actionsApp is the App whose check runs are jobs of GitHub Actions: a job and its
// check run have one number, and the job has a log
// (docs.github.com/rest/actions/workflow-jobs).
const actionsApp = "github-actions"

// Checks reads check runs and the older commit statuses, the newest of each name.
func (a *App) Checks(ctx context.Context, repository, sha string) ([]sessions.Check, error) {
	token, err := a.repositoryToken(ctx, repository, readChecks)
	if err != nil {
		return nil, err
	}
	owner, name, err := splitName(repository)
	if err != nil {
		return nil, err
	}
	at := commit{a.client(token), repository, owner, name, sha}
	checks, err := a.checkRuns(ctx, at)
	if err == nil {
		var statuses []sessions.Check
		statuses, err = at.statuses(ctx)
		checks = append(checks, statuses...)
	}
	if err != nil {
		return nil, a.appProblem(err, repository)
	}
	return checks, nil
}

// commit is where checks are.
type commit struct {
	c                            *gh.Client
	repository, owner, name, sha string
}

func (a *App) checkRuns(ctx context.Context, at commit) ([]sessions.Check, error) {
	latest := "latest"
	o := &gh.ListCheckRunsOptions{Filter: &latest, ListOptions: gh.ListOptions{PerPage: perPage}}
	var checks []sessions.Check
	for {
		page, resp, err := at.c.Checks.ListCheckRunsForRef(ctx, at.owner, at.name, at.sha, o)
		if err != nil {
			return nil, err
		}
		for _, run := range page.CheckRuns {
			check := sessions.Check{Name: run.GetName(), State: run.GetStatus(), Conclusion: run.GetConclusion(),
				Title: run.GetOutput().GetTitle(), URL: run.GetHTMLURL()}
			if check.Failed() {
				check.Detail = a.why(ctx, at, run)
			}
			checks = append(checks, check)
		}
		if resp.NextPage == 0 {
			return checks, nil
		}
		o.Page = resp.NextPage
	}
}

// why collects what a failed check run says. What cannot be read is left out:
// the check's state is worth telling without it.
func (a *App) why(ctx context.Context, at commit, run *gh.CheckRun) string {
	var parts []string
	add := func(text string) {
		if text = strings.TrimSpace(text); text != "" {
			parts = append(parts, text)
		}
	}
	add(run.GetOutput().GetSummary())
	add(run.GetOutput().GetText())
	if run.GetOutput().GetAnnotationsCount() > 0 {
		list, _, err := at.c.Checks.ListCheckRunAnnotations(ctx, at.owner, at.name, run.GetID(), &gh.ListOptions{PerPage: maxAnnotations})
		if err == nil {
			add(annotations(list))
		}
	}
	if run.GetApp().GetSlug() == actionsApp {
		add(a.jobLog(ctx, at, run.GetID()))
	}
	return strings.Join(parts, "\n\n")
}

func annotations(list []*gh.CheckRunAnnotation) string {
	var lines []string
	for _, n := range list {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s:%d: %s: %s %s", n.GetPath(), n.GetStartLine(), n.GetAnnotationLevel(),
			n.GetTitle(), n.GetMessage())))
	}
	return strings.Join(lines, "\n")
}

// jobLog is the end of a job's log, or empty if it cannot be read: reading it is a
// permission of its own. GitHub answers with an address elsewhere, which needs
// no token and gets none.
func (a *App) jobLog(ctx context.Context, at commit, job int64) string {
	token, err := a.repositoryToken(ctx, at.repository, readActions)
	if err != nil {
		return ""
	}
	url, _, err := a.client(token).Actions.GetWorkflowJobLogs(ctx, at.owner, at.name, job, 0)
	if err != nil || url == nil {
		return ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url.String(), nil)
	if err != nil {
		return ""
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return ""
	}
	end := &tail{limit: maxJobLog}
	if _, err := io.Copy(end, resp.Body); err != nil {
		return ""
	}
	return "The end of its log:\n" + strings.ToValidUTF8(string(end.data), "")
}

// tail keeps the last bytes that are written to it.
type tail struct {
	limit int
	data  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if excess := len(t.data) - t.limit; excess > 0 {
		t.data = append(t.data[:0], t.data[excess:]...)
	}
	return len(p), nil
}

// statuses reads commit statuses as checks.
func (at commit) statuses(ctx context.Context) ([]sessions.Check, error) {
	o := &gh.ListOptions{PerPage: perPage}
	var checks []sessions.Check
	for {
		page, resp, err := at.c.Repositories.GetCombinedStatus(ctx, at.owner, at.name, at.sha, o)
		if err != nil {
			return nil, err
		}
		for _, s := range page.Statuses {
			check := sessions.Check{Name: s.GetContext(), State: "completed", Conclusion: s.GetState(), Title: s.GetDescription(), URL: s.GetTargetURL()}
			switch s.GetState() {
			case "pending":
				check.State, check.Conclusion = "in_progress", ""
			case "error":
				check.Conclusion = "failure"
			}
			checks = append(checks, check)
		}
		if resp.NextPage == 0 {
			return checks, nil
		}
		o.Page = resp.NextPage
	}
}
