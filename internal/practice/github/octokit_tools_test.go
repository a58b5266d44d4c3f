package github

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// toolsSaid is what tools.mjs prints.
type toolsSaid struct {
	Said        map[string]any
	Driven      []string // routes of GitHub's description that succeeded
	Differences []string // of answers from that description
}

func TestAnswersToOctokitAreAsGitHubDescribesThem(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	p.commit("octokit/tools", "a.txt", "one\ntwo\nthree\n4\n5\n6\n7\n8\n9\n10\n")
	sha := p.commit("octokit/tools", "b.txt", "four\n")
	for _, job := range []struct{ name, conclusion string }{{"build", "success"}, {"test", "failure"}} {
		if err := p.RunJob("acme/greeter", sha, job.name, job.conclusion, job.name+": "+job.conclusion+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	var got toolsSaid
	p.runScript("tools.mjs", &got, "GITHUB_ALICE="+p.token("alice"), "GITHUB_BOB="+p.token("bob"),
		"GITHUB_CAROL="+p.token("carol"), "GITHUB_INSTALLATION="+p.installation(nil))
	for _, difference := range got.Differences {
		t.Error(difference)
	}
	for _, route := range p.undriven(got.Driven) {
		t.Errorf("the script does not drive %s to success", route)
	}
	text, err := os.ReadFile("testdata/octokit/tools.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.Said); diff != "" {
		t.Error(diff)
	}
}

var wildcard = regexp.MustCompile(`\{[^}]*\}`)

// undriven lists the routes of the agent's tools that are not among the driven.
func (p *practice) undriven(driven []string) []string {
	seen := map[string]bool{}
	for _, route := range driven {
		seen[wildcard.ReplaceAllString(route, "{}")] = true
	}
	var missing []string
	in := func(method, path string, _ need, _ handler) {
		route := method + " /repos/{}/{}" + wildcard.ReplaceAllString(path, "{}")
		if !seen[route] {
			missing = append(missing, route)
		}
	}
	p.routePulls(in)
	p.routeIssues(in)
	p.routeComments(in)
	p.routeChecks(in)
	for _, below := range []string{"check-runs", "status", "statuses", "pulls"} { // one route here, see commitRoutes
		in("GET", "/commits/{ref}/"+below, need{}, nil)
	}
	slices.Sort(missing)
	return missing
}
