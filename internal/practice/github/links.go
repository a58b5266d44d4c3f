package github

import "fmt"

// repositoryLinks are the addresses that a repository's JSON holds, below its own
// (docs.github.com/rest/repos/repos). Not all of them are served here.
var repositoryLinks = map[string]string{
	"archive_url": "/{archive_format}{/ref}", "assignees_url": "/assignees{/user}", "blobs_url": "/git/blobs{/sha}",
	"branches_url": "/branches{/branch}", "collaborators_url": "/collaborators{/collaborator}", "comments_url": "/comments{/number}",
	"commits_url": "/commits{/sha}", "compare_url": "/compare/{base}...{head}", "contents_url": "/contents/{+path}",
	"contributors_url": "/contributors", "deployments_url": "/deployments", "downloads_url": "/downloads", "events_url": "/events",
	"forks_url": "/forks", "git_commits_url": "/git/commits{/sha}", "git_refs_url": "/git/refs{/sha}", "git_tags_url": "/git/tags{/sha}",
	"hooks_url": "/hooks", "issue_comment_url": "/issues/comments{/number}", "issue_events_url": "/issues/events{/number}",
	"issues_url": "/issues{/number}", "keys_url": "/keys{/key_id}", "labels_url": "/labels{/name}", "languages_url": "/languages",
	"merges_url": "/merges", "milestones_url": "/milestones{/number}", "notifications_url": "/notifications{?since,all,participating}",
	"pulls_url": "/pulls{/number}", "releases_url": "/releases{/id}", "stargazers_url": "/stargazers", "statuses_url": "/statuses/{sha}",
	"subscribers_url": "/subscribers", "subscription_url": "/subscription", "tags_url": "/tags", "teams_url": "/teams",
	"trees_url": "/git/trees{/sha}",
}

// accountLinks are those of an account (docs.github.com/rest/users/users).
var accountLinks = map[string]string{
	"events_url": "/events{/privacy}", "followers_url": "/followers", "following_url": "/following{/other_user}", "gists_url": "/gists{/gist_id}",
	"organizations_url": "/orgs", "received_events_url": "/received_events", "repos_url": "/repos", "starred_url": "/starred{/owner}{/repo}",
	"subscriptions_url": "/subscriptions",
}

// addLinks adds the addresses below one to an object.
func addLinks(o object, base string, below map[string]string) {
	for name, path := range below {
		o[name] = base + path
	}
}

// links is what _links of an object says.
func links(to object) object {
	o := object{}
	for name, address := range to {
		o[name] = object{"href": address}
	}
	return o
}

// pullLinks are the addresses of a pull request, which its JSON holds twice.
func (s *Server) pullLinks(p *pull) object {
	api, page := s.apiURL("repos/%s", p.Repository), s.pageURL("%s/pull/%d", p.Repository, p.Number)
	at := object{
		"html": page, "self": fmt.Sprintf("%s/pulls/%d", api, p.Number), "issue": fmt.Sprintf("%s/issues/%d", api, p.Number),
		"comments":        fmt.Sprintf("%s/issues/%d/comments", api, p.Number),
		"review_comments": fmt.Sprintf("%s/pulls/%d/comments", api, p.Number),
		"review_comment":  api + "/pulls/comments{/number}",
		"commits":         fmt.Sprintf("%s/pulls/%d/commits", api, p.Number),
		"statuses":        fmt.Sprintf("%s/statuses/%s", api, p.HeadSHA),
	}
	o := object{"_links": links(at), "diff_url": page + ".diff", "patch_url": page + ".patch", "url": at["self"]}
	delete(at, "self")
	for name, address := range at {
		o[name+"_url"] = address
	}
	return o
}
