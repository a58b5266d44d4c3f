// An ordinary script of @octokit/rest. It is told where GitHub is and who it is
// by its environment, and prints what happened as JSON.
import { Octokit } from "@octokit/rest";

const octokit = new Octokit({ baseUrl: process.env.GITHUB_API, auth: process.env.GITHUB_TOKEN });
const here = { owner: "acme", repo: "greeter" };
const said = {};

const repositories = await octokit.paginate(octokit.rest.repos.listForAuthenticatedUser, { per_page: 1 });
said.repositories = repositories.map((r) => r.full_name);
said.defaultBranch = (await octokit.rest.repos.get(here)).data.default_branch;

const main = await octokit.rest.git.getRef({ ...here, ref: "heads/main" });
await octokit.rest.git.createRef({ ...here, ref: "refs/heads/octokit/try", sha: main.data.object.sha });
await octokit.rest.repos.createOrUpdateFileContents({
  ...here,
  branch: "octokit/try",
  path: "docs/octokit.md",
  message: "Write from Octokit",
  content: Buffer.from("# Octokit was here\n").toString("base64"),
});

const wanted = { ...here, head: "octokit/try", base: "main", title: "From Octokit", body: "Hello." };
const pull = (await octokit.rest.pulls.create(wanted)).data;
said.pull = { number: pull.number, author: pull.user.login, files: pull.changed_files, additions: pull.additions };
said.listed = (await octokit.rest.pulls.list({ ...here, head: "acme:octokit/try" })).data.map((p) => p.title);

await octokit.rest.issues.createComment({ ...here, issue_number: pull.number, body: "Well done." });
said.comments = (await octokit.rest.issues.listComments({ ...here, issue_number: pull.number })).data.map((c) => c.body);

try {
  await octokit.rest.pulls.create(wanted);
} catch (error) {
  said.again = { status: error.status, message: error.response.data.errors[0].message };
}

const ready = await octokit.graphql(
  "mutation ($input: ConvertPullRequestToDraftInput!) { convertPullRequestToDraft(input: $input) { pullRequest { isDraft } } }",
  { input: { pullRequestId: pull.node_id } },
);
said.draft = ready.convertPullRequestToDraft.pullRequest.isDraft;

console.log(JSON.stringify(said));
