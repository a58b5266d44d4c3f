package github

import (
	"net/http"
	"regexp"
	"slices"
)

// need is the right that a route asks for.
type need struct {
	kinds []callerKind // by what credential; nil: any
	any   []string     // in the repository: one of these permissions
	level level        // of the permission
	role  level        // of a user in the repository
}

// wrongKind is GitHub's answer to a credential of another kind.
func (n need) wrongKind(is callerKind) error {
	switch {
	case n.kinds[0] == byJWT:
		return refuse(http.StatusUnauthorized, "A JSON web token could not be decoded")
	case is == anonymous:
		return refuse(http.StatusUnauthorized, "Requires authentication")
	case slices.Contains(n.any, "checks"):
		return refuse(http.StatusForbidden, "You must authenticate via a GitHub App.")
	case n.kinds[0] == byInstallation:
		return refuse(http.StatusForbidden, "You must authenticate with an installation access token in order to list repositories for an installation.")
	}
	return errForbidden
}

func read(names ...string) need  { return need{any: names, level: reading, role: reading} }
func write(names ...string) need { return need{any: names, level: writing, role: writing} }

// talk is a right to write that a user who may read has.
func talk(names ...string) need { return need{any: names, level: writing, role: reading} }

// only makes a right one of certain credentials.
func (n need) only(kinds ...callerKind) need { n.kinds = kinds; return n }

// api serves REST. What is not here is answered 404, as GitHub does.
func (s *Server) api() http.Handler {
	unknown := s.answer(need{}, func(*call) (reply, error) { return reply{}, errNotFound })
	mux, comments := http.NewServeMux(), http.NewServeMux()
	on := func(pattern string, n need, h handler) { mux.HandleFunc(pattern, s.answer(n, h)) }
	in := func(method, path string, n need, h handler) { on(method+" /repos/{owner}/{repo}"+path, n, h) }
	s.routeApps(on)
	s.routeRepositories(in)
	s.routePulls(in)
	s.routeIssues(in)
	s.routeChecks(in)
	s.routeComments(func(method, path string, n need, h handler) {
		comments.HandleFunc(method+" /repos/{owner}/{repo}"+path, s.answer(n, h))
	})
	mux.HandleFunc("/", unknown)
	comments.HandleFunc("/", unknown)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if commentPath.MatchString(r.URL.Path) {
			comments.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// commentPath tells /pulls/comments/ID from /pulls/NUMBER/…, which ServeMux
// finds ambiguous.
var commentPath = regexp.MustCompile(`^/repos/[^/]+/[^/]+/(pulls|issues)/comments/`)

func (s *Server) routeApps(on func(pattern string, n need, h handler)) {
	app, inst, user := need{}.only(byJWT), need{}.only(byInstallation), need{}.only(byUser)
	on("GET /app", app, s.getApp)
	on("GET /app/installations", app, s.listInstallations)
	on("GET /app/installations/{id}", app, s.getInstallation)
	on("POST /app/installations/{id}/access_tokens", app, s.createToken)
	on("GET /app/hook/deliveries", app, s.listDeliveries)
	on("GET /app/hook/deliveries/{id}", app, s.getDelivery)
	on("POST /app/hook/deliveries/{id}/attempts", app, s.redeliver)
	on("GET /repos/{o}/{r}/installation", app, s.repositoryInstallation)
	on("GET /orgs/{org}/installation", app, s.orgInstallation)
	on("GET /installation/repositories", inst, s.installationRepositories)
	on("DELETE /installation/token", inst, s.revokeToken)
	on("GET /user", user, s.getUser)
	on("GET /user/repos", user, s.userRepositories)
	on("GET /user/installations", user, s.userInstallations)
	on("GET /user/installations/{id}/repositories", user, s.userInstallationRepositories)
	on("GET /users/{login}", need{}, s.getAccount)
	on("GET /user/{id}", need{}, s.getAccountByID)
	on("GET /orgs/{org}/repos", need{}, s.orgRepositories)
	on("GET /rate_limit", need{}, s.rateLimit)
	on("GET /meta", need{}, s.meta)
	on("DELETE /applications/{client}/token", need{}, s.revokeUserToken)
	on("DELETE /applications/{client}/grant", need{}, s.revokeGrant)
	on("POST /applications/{client}/token", need{}, s.checkUserToken)
}

func (s *Server) routeRepositories(in func(method, path string, n need, h handler)) {
	in("GET", "", read("metadata"), s.getRepository)
	in("GET", "/collaborators/{login}/permission", read("metadata"), s.getPermission)
	in("GET", "/branches", read("contents"), s.listBranches)
	in("GET", "/branches/{branch...}", read("contents"), s.getBranch)
	in("GET", "/git/ref/{ref...}", read("contents"), s.getRef)
	in("GET", "/git/matching-refs/{ref...}", read("contents"), s.matchingRefs)
	in("POST", "/git/refs", write("contents"), s.createRef)
	in("PATCH", "/git/refs/{ref...}", write("contents"), s.updateRef)
	in("DELETE", "/git/refs/{ref...}", write("contents"), s.deleteRef)
	in("GET", "/git/commits/{sha}", read("contents"), s.getGitCommit)
	in("GET", "/commits", read("contents"), s.listCommits)
	in("GET", "/commits/{rest...}", read("contents", "checks", "statuses"), s.commitRoutes)
	in("GET", "/compare/{range...}", read("contents"), s.compare)
	in("GET", "/contents/{path...}", read("contents"), s.getContents)
	in("PUT", "/contents/{path...}", write("contents"), s.putContents)
	in("GET", "/readme", read("contents"), s.getReadme)
	in("GET", "/labels", read("issues", "pull_requests"), s.listRepositoryLabels)
	in("POST", "/labels", write("issues", "pull_requests"), s.createLabel)
	in("GET", "/labels/{name}", read("issues", "pull_requests"), s.getLabel)
}

func (s *Server) routePulls(in func(method, path string, n need, h handler)) {
	view, edit, say := read("pull_requests"), write("pull_requests"), talk("pull_requests")
	in("GET", "/pulls", view, s.listPulls)
	in("POST", "/pulls", edit, s.createPull)
	in("GET", "/pulls/{number}", view, s.getPull)
	in("PATCH", "/pulls/{number}", say, s.updatePull)
	in("GET", "/pulls/{number}/commits", view, s.pullCommits)
	in("GET", "/pulls/{number}/files", view, s.pullFiles)
	in("GET", "/pulls/{number}/merge", view, s.pullMerged)
	in("PUT", "/pulls/{number}/merge", write("contents"), s.mergePull)
	in("POST", "/pulls/{number}/requested_reviewers", edit, s.requestReviewers)
	in("GET", "/pulls/{number}/reviews", view, s.listReviews)
	in("POST", "/pulls/{number}/reviews", say, s.createReview)
	in("GET", "/pulls/{number}/reviews/{review}", view, s.getReview)
	in("GET", "/pulls/{number}/reviews/{review}/comments", view, s.reviewComments)
	in("GET", "/pulls/{number}/comments", view, s.pullReviewComments)
	in("POST", "/pulls/{number}/comments", say, s.createReviewComment)
	in("POST", "/pulls/{number}/comments/{id}/replies", say, s.replyToComment)
}

func (s *Server) routeIssues(in func(method, path string, n need, h handler)) {
	view, edit, say := read("issues", "pull_requests"), write("issues", "pull_requests"), talk("issues", "pull_requests")
	in("GET", "/issues/{number}", view, s.getIssue)
	in("GET", "/issues/{number}/comments", view, s.listComments)
	in("POST", "/issues/{number}/comments", say, s.createComment)
	in("GET", "/issues/{number}/labels", view, s.listLabels)
	in("POST", "/issues/{number}/labels", edit, s.addLabels)
	in("DELETE", "/issues/{number}/labels/{name}", edit, s.removeLabel)
	in("POST", "/issues/{number}/assignees", edit, s.addAssignees)
}

func (s *Server) routeComments(in func(method, path string, n need, h handler)) {
	view, say := read("pull_requests"), talk("pull_requests")
	in("GET", "/pulls/comments/{id}", view, s.getReviewComment)
	in("PATCH", "/pulls/comments/{id}", say, s.editReviewComment)
	in("POST", "/pulls/comments/{id}/reactions", say, s.reactToReviewComment)
	in("GET", "/pulls/comments/{id}/reactions", view, s.reviewCommentReactions)
	view, say = read("issues", "pull_requests"), talk("issues", "pull_requests")
	in("GET", "/issues/comments/{id}", view, s.getComment)
	in("PATCH", "/issues/comments/{id}", say, s.editComment)
	in("DELETE", "/issues/comments/{id}", say, s.deleteComment)
	in("POST", "/issues/comments/{id}/reactions", say, s.reactToComment)
	in("GET", "/issues/comments/{id}/reactions", view, s.commentReactions)
}

func (s *Server) routeChecks(in func(method, path string, n need, h handler)) {
	in("POST", "/check-runs", write("checks").only(byInstallation), s.createCheck)
	in("GET", "/check-runs/{id}", read("checks"), s.getCheck)
	in("GET", "/check-runs/{id}/annotations", read("checks"), s.checkAnnotations)
	in("PATCH", "/check-runs/{id}", write("checks").only(byInstallation), s.updateCheck)
	in("POST", "/statuses/{sha}", write("statuses"), s.createStatus)
	in("GET", "/actions/runs", read("actions"), s.listRuns)
	in("GET", "/actions/runs/{id}", read("actions"), s.getRun)
	in("GET", "/actions/runs/{id}/jobs", read("actions"), s.runJobs)
	in("GET", "/actions/jobs/{id}", read("actions"), s.getJob)
	in("GET", "/actions/jobs/{id}/logs", read("actions"), s.jobLogs)
}
