// Package github is a GitHub on this machine: enough of github.com, faithfully,
// that the product and clients written by others (go-github, Octokit, git) run
// against it unmodified, and that a person can look at what they did.
//
// # Addresses
//
// One handler serves everything, laid out as GitHub Enterprise Server does:
//
//	/api/v3/…                    REST, see routes.go for every route and the right it needs
//	/api/graphql                 three mutations: ready for review, back to draft, resolve a thread
//	/actions-logs/ID             logs of jobs (RunJob), to which the API sends under the name localhost,
//	                             which is another origin as with GitHub; they take no token
//	/login/oauth/authorize       the web flow of the App's users, with PKCE (S256)
//	/login/oauth/access_token    codes and refresh tokens for user tokens
//	/OWNER/NAME.git              git over smart HTTP, by git's own http-backend
//	/, /OWNER/NAME, …            pages for people; the cookie "person" says who one is
//
// # Truth
//
// The bare repositories under dir/repos are the truth about branches, commits
// and diffs; nothing here computes those by itself. Everything else (pull
// requests, comments, tokens, webhook deliveries) is rows in memory, each
// change of which is appended to dir/journal before the request is answered
// (store.go). A kill at any moment loses nothing that was answered. After a
// push, and when the server is opened, the refs of a repository are compared
// with those last seen: the differences become push and pull_request events,
// so a push that nobody lived to report is reported by the next process.
//
// One mutex guards the rows. Every API call and page runs under it from
// beginning to end, so each is atomic; git transfers run outside it.
//
// # Credentials
//
//   - The App's JWT is verified: RS256 by the App's key, iss is the App's id or
//     client id, exp at most ten minutes ahead, iat not in the future.
//   - Installation tokens (ghs_) live one hour and reach only the repositories
//     and permissions they were asked for. With the header
//     X-GitHub-Stateless-S2S-Token: enabled they have the long form that GitHub
//     is introducing (ghs_APPID_JWT, about 520 characters).
//   - User tokens (ghu_) reach what the App may do, the user may do and the
//     installation covers. Those of the web flow live 8 hours, their refresh
//     tokens (ghr_) 6 months; using one kills both old tokens. The tokens of
//     Seed do not expire.
//
// The App may read and write contents, pull requests, issues, checks and
// statuses, and read actions. It has no workflows permission, so pushes that
// touch .github/workflows are refused as GitHub refuses them.
//
// # People
//
// alice and bob may write to the organisation acme's repositories; carol may
// only read. SetRole changes that. What somebody may not see is 404, what they
// may see but not do is 403.
//
// # Reviews
//
// A comment is on a line of the diff and moves along with it when the branch is
// pushed. When the line itself changes the comment is outdated: its line is null.
//
// # Webhooks
//
// Run sends them, signed, in the order in which things happened, each once:
// there is no retry, as with GitHub. Redelivery (by the API) keeps the GUID.
// The last deliveries can be listed. They are made only while a webhook URL is set.
//
// # Faults
//
// Inject makes matching requests slow, fail, or fail after they had their
// effect; Calls lists the last requests with who made them and what came of them.
package github
