// What the agent's tools and the people they work with do, as an ordinary script
// of @octokit/rest: pull requests changed, checks, statuses, logs, reviews, comments.
import { client, differences, driven, refused } from "./described.mjs";

const { rest: alice, paginate } = client(process.env.GITHUB_ALICE);
const { rest: bob } = client(process.env.GITHUB_BOB);
const { rest: carol } = client(process.env.GITHUB_CAROL);
const { rest: app } = client(process.env.GITHUB_INSTALLATION);
const here = { owner: "acme", repo: "greeter" };
const branch = "octokit/tools";
const long = "x".repeat(65537); // one more than GitHub takes
const said = {};

const sha = (await alice.git.getRef({ ...here, ref: `heads/${branch}` })).data.object.sha;
const made = (await alice.pulls.create({ ...here, head: branch, base: "main", title: "Try", body: "Before." })).data;
const pull = { ...here, pull_number: made.number };
const issue = { ...here, issue_number: made.number };
const absent = { ...here, pull_number: 999 };

async function pullRequests() {
  const edited = (await alice.pulls.update({ ...pull, title: "Tried", body: "After." })).data;
  const closed = (await alice.pulls.update({ ...pull, state: "closed" })).data.state;
  const reopened = (await alice.pulls.update({ ...pull, state: "open" })).data.state;
  const got = (await alice.pulls.get(pull)).data;
  said.edited = [edited.title, edited.body, closed, reopened, got.title, got.head.sha === sha];
  said.diff = (await alice.pulls.get({ ...pull, mediaType: { format: "diff" } })).data.includes("+++ b/a.txt");
  said.pulls = (await paginate(alice.pulls.list, { ...here, state: "all", per_page: 1 })).map((p) => p.number);
  said.commits = (await paginate(alice.pulls.listCommits, { ...pull, per_page: 1 })).map((c) => c.commit.message);
  said.files = (await paginate(alice.pulls.listFiles, { ...pull, per_page: 1 })).map((f) => [f.filename, f.status, f.additions]);
  said.reviewers = (await alice.pulls.requestReviewers({ ...pull, reviewers: ["bob"] })).data.requested_reviewers.map((u) => u.login);
  said.pullsRefused = {
    noTitle: await refused(alice.pulls.update({ ...pull, title: " " })),
    noBase: await refused(alice.pulls.update({ ...pull, base: "nowhere" })),
    long: await refused(alice.pulls.update({ ...pull, body: long })),
    longAtOnce: await refused(alice.pulls.create({ ...here, head: branch, base: "main", title: "T", body: long })),
    nobody: await refused(client("ghu_wrong").rest.pulls.update({ ...pull, title: "T" })),
    noState: await refused(alice.pulls.update({ ...pull, state: "gone" })),
    absent: await refused(alice.pulls.update({ ...absent, title: "T" })),
    reader: await refused(carol.pulls.update({ ...pull, title: "T" })),
    readerOpens: await refused(carol.pulls.create({ ...here, head: branch, base: "main", title: "T" })),
    author: await refused(alice.pulls.requestReviewers({ ...pull, reviewers: ["alice"] })),
    unmerged: (await refused(alice.pulls.checkIfMerged(pull))).status,
  };
}

async function checks() {
  const annotation = (line) => ({ path: "a.txt", start_line: line, end_line: line, annotation_level: "failure", message: `Line ${line}` });
  const begun = (await app.checks.create({ ...here, name: "lint", head_sha: sha, status: "in_progress", external_id: "7" })).data;
  const output = { title: "Three", summary: "Three remarks", annotations: [1, 2, 3].map(annotation) };
  const run = { ...here, check_run_id: begun.id };
  const done = (await app.checks.update({ ...run, conclusion: "failure", output })).data;
  said.check = [begun.status, begun.conclusion, done.status, done.conclusion, done.output.annotations_count, done.external_id, done.app.slug];
  said.readAgain = (await bob.checks.get(run)).data.output.title;
  said.annotations = (await paginate(bob.checks.listAnnotations, { ...run, per_page: 2 })).map((a) => a.message);
  await app.checks.create({ ...here, name: "lint", head_sha: sha });
  const names = (checks) => checks.map((k) => `${k.app.slug} ${k.name} ${k.status} ${k.conclusion}`).sort();
  said.latest = names(await paginate(bob.checks.listForRef, { ...here, ref: branch, per_page: 1 }));
  said.everyRun = names(await paginate(bob.checks.listForRef, { ...here, ref: sha, filter: "all", per_page: 1 }));
  said.named = (await bob.checks.listForRef({ ...here, ref: sha, check_name: "test", status: "completed" })).data.total_count;
  const job = (await bob.checks.listForRef({ ...here, ref: sha, check_name: "test" })).data.check_runs[0].id;
  said.checksRefused = {
    user: await refused(alice.checks.create({ ...here, name: "lint", head_sha: sha })),
    noCommit: await refused(app.checks.create({ ...here, name: "lint", head_sha: "1".repeat(40) })),
    noConclusion: await refused(app.checks.create({ ...here, name: "lint", head_sha: sha, status: "completed" })),
    tooMany: await refused(app.checks.update({ ...run, output: { ...output, annotations: Array(51).fill(annotation(1)) } })),
    another: await refused(app.checks.update({ ...here, check_run_id: job, conclusion: "success" })),
    absent: await refused(bob.checks.get({ ...here, check_run_id: 1 })),
    noRef: await refused(bob.checks.listForRef({ ...here, ref: "nowhere" })),
  };
}

async function statuses() {
  for (const [context, state] of [["build", "pending"], ["build", "success"], ["deploy", "error"]]) {
    await bob.repos.createCommitStatus({ ...here, sha, context, state, description: `${context}: ${state}` });
  }
  const combined = (await bob.repos.getCombinedStatusForRef({ ...here, ref: branch })).data;
  said.combined = [combined.state, combined.sha === sha, combined.total_count, combined.statuses.map((t) => t.state)];
  const pages = await paginate(bob.repos.getCombinedStatusForRef, { ...here, ref: branch, per_page: 1 }); // not a list of statuses
  said.combinedPages = pages.map((page) => page.statuses.map((t) => t.context));
  said.statuses = (await paginate(bob.repos.listCommitStatusesForRef, { ...here, ref: branch, per_page: 2 })).map((t) => t.description);
  said.statusesRefused = {
    noState: await refused(bob.repos.createCommitStatus({ ...here, sha, state: "maybe" })),
    long: await refused(bob.repos.createCommitStatus({ ...here, sha, state: "success", description: "x".repeat(141) })),
    noCommit: await refused(bob.repos.createCommitStatus({ ...here, sha: "1".repeat(40), state: "success" })),
    reader: await refused(carol.repos.createCommitStatus({ ...here, sha, state: "success" })),
    noRef: await refused(bob.repos.getCombinedStatusForRef({ ...here, ref: "nowhere" })),
  };
}

async function jobs() {
  const runs = await paginate(bob.actions.listWorkflowRunsForRepo, { ...here, head_sha: sha, per_page: 1 });
  said.pullsOf = (await paginate(bob.repos.listPullRequestsAssociatedWithCommit, { ...here, commit_sha: sha })).map((p) => p.number);
  said.runs = runs.map((r) => [r.name, r.status, r.conclusion, r.head_branch]);
  said.run = (await bob.actions.getWorkflowRun({ ...here, run_id: runs[0].id })).data.head_commit.message;
  said.jobs = [];
  for (const { id } of runs) {
    for (const job of await paginate(bob.actions.listJobsForWorkflowRun, { ...here, run_id: id, per_page: 1 })) {
      const job_id = (await bob.actions.getJobForWorkflowRun({ ...here, job_id: job.id })).data.id;
      const log = (await bob.actions.downloadJobLogsForWorkflowRun({ ...here, job_id })).data;
      said.jobs.push([job.name, job.conclusion, job.run_id === id, log]);
    }
  }
  const lint = (await bob.checks.listForRef({ ...here, ref: sha, check_name: "lint" })).data.check_runs[0].id;
  said.jobsRefused = {
    notAJob: await refused(bob.actions.getJobForWorkflowRun({ ...here, job_id: lint })),
    noLog: await refused(bob.actions.downloadJobLogsForWorkflowRun({ ...here, job_id: lint })),
    noRun: await refused(bob.actions.getWorkflowRun({ ...here, run_id: 1 })),
    noJobs: await refused(bob.actions.listJobsForWorkflowRun({ ...here, run_id: 1 })),
  };
}

async function reviews() {
  const first = (await bob.pulls.createReview({ ...pull, event: "REQUEST_CHANGES", body: "Not yet.", comments: [
    { path: "a.txt", line: 2, body: "Why two?" }, { path: "b.txt", position: 1, body: "Why four?" }] })).data;
  const review = { ...pull, review_id: first.id };
  await bob.pulls.createReview({ ...pull, event: "APPROVE" });
  said.reviews = (await paginate(alice.pulls.listReviews, { ...pull, per_page: 1 })).map((r) => [r.user.login, r.state, r.body]);
  said.review = [(await alice.pulls.getReview(review)).data.state, first.commit_id === sha];
  const inIt = await paginate(alice.pulls.listCommentsForReview, { ...review, per_page: 1 });
  said.inReview = inIt.map((c) => [c.path, c.body, c.diff_hunk]);

  const top = (await bob.pulls.createReviewComment({ ...pull, commit_id: sha, path: "a.txt", line: 3, side: "RIGHT", body: "And three?" })).data;
  const answered = (await alice.pulls.createReplyForReviewComment({ ...pull, comment_id: top.id, body: "Because." })).data;
  const again = (await app.pulls.createReviewComment({ ...pull, in_reply_to: top.id, body: "Truly." })).data;
  said.replies = [answered, again].map((c) => [c.user.login, c.in_reply_to_id === top.id, c.path, c.line, c.diff_hunk === top.diff_hunk]);
  const comment = { ...here, comment_id: top.id };
  await bob.pulls.updateReviewComment({ ...comment, body: "And three, really?" });
  said.edit = (await alice.pulls.getReviewComment(comment)).data.body;
  said.onLines = (await paginate(alice.pulls.listReviewComments, { ...pull, per_page: 2 })).map((c) => c.body);
  said.newestFirst = (await alice.pulls.listReviewComments({ ...pull, sort: "created", direction: "desc" })).data.map((c) => c.body);
  const react = (content) => alice.reactions.createForPullRequestReviewComment({ ...comment, content });
  said.reacted = [(await react("eyes")).status, (await react("eyes")).status];
  said.reactions = (await paginate(bob.reactions.listForPullRequestReviewComment, { ...comment, per_page: 1 })).map((r) => r.content);
  said.reviewsRefused = {
    own: await refused(alice.pulls.createReview({ ...pull, event: "APPROVE", body: "Good." })),
    ownChanges: await refused(alice.pulls.createReview({ ...pull, event: "REQUEST_CHANGES", body: "Bad." })),
    line: await refused(bob.pulls.createReview({ ...pull, event: "COMMENT", comments: [{ path: "a.txt", line: 99, body: "?" }] })),
    path: await refused(bob.pulls.createReview({ ...pull, event: "COMMENT", comments: [{ path: "c.txt", line: 1, body: "?" }] })),
    absentReview: await refused(alice.pulls.getReview({ ...pull, review_id: 1 })),
    commentLine: await refused(bob.pulls.createReviewComment({ ...pull, commit_id: sha, path: "a.txt", line: 99, body: "?" })),
    commentPath: await refused(bob.pulls.createReviewComment({ ...pull, commit_id: sha, path: "c.txt", line: 1, body: "?" })),
    longReply: await refused(alice.pulls.createReplyForReviewComment({ ...pull, comment_id: top.id, body: long })),
    longComment: await refused(bob.pulls.createReview({ ...pull, event: "COMMENT", comments: [{ path: "a.txt", line: 1, body: long }] })),
    noEvent: await refused(bob.pulls.createReview({ ...pull, event: "NOTE", body: "?" })),
    blanked: await refused(bob.pulls.updateReviewComment({ ...comment, body: " " })),
    noReplyText: await refused(alice.pulls.createReplyForReviewComment({ ...pull, comment_id: top.id, body: "" })),
    toAReply: await refused(alice.pulls.createReplyForReviewComment({ ...pull, comment_id: answered.id, body: "Hm." })),
    toNothing: await refused(alice.pulls.createReplyForReviewComment({ ...pull, comment_id: 1, body: "Hm." })),
    absentPull: await refused(alice.pulls.listReviewComments(absent)),
    anothers: await refused(carol.pulls.updateReviewComment({ ...comment, body: "Mine." })),
    reaction: (await refused(react("shrug"))).status,
  };
}

async function outdated() {
  await bob.pulls.createReviewComment({ ...pull, commit_id: sha, path: "a.txt", line: 10, body: "Ten?" });
  const { data: file } = await alice.repos.getContent({ ...here, ref: branch, path: "a.txt" });
  const content = Buffer.from("zero\none\n2\nthree\n4\n5\n6\n7\n8\n9\n10\n").toString("base64");
  const pushed = await alice.repos.createOrUpdateFileContents({ ...here, branch, path: "a.txt", message: "Count", content, sha: file.sha });
  const now = pushed.data.commit.sha;
  said.outdated = (await alice.pulls.listReviewComments(pull)).data.map((c) =>
    [c.body, c.line, c.original_line, c.position, c.original_position, c.commit_id === now, c.original_commit_id === sha]);
}

async function conversation() {
  const ids = [];
  for (const body of ["First.", "Second.", "Third."]) ids.push((await app.issues.createComment({ ...issue, body })).data.id);
  const comment = { ...here, comment_id: ids[0] };
  await app.issues.updateComment({ ...comment, body: "First, edited." });
  said.comment = (await alice.issues.getComment(comment)).data.body;
  await app.issues.deleteComment({ ...here, comment_id: ids[1] });
  said.comments = (await paginate(alice.issues.listComments, { ...issue, per_page: 1 })).map((c) => [c.user.login, c.user.type, c.body]);
  said.thumbs = (await alice.reactions.createForIssueComment({ ...comment, content: "+1" })).data.content;
  said.thumbsListed = (await paginate(bob.reactions.listForIssueComment, { ...comment, per_page: 1 })).map((r) => r.user.login);
  said.labels = (await alice.issues.addLabels({ ...issue, labels: ["agent", "later"] })).data.map((l) => l.name);
  said.labelLeft = (await alice.issues.removeLabel({ ...issue, name: "later" })).data.map((l) => l.name);
  said.labelsListed = (await paginate(bob.issues.listLabelsOnIssue, { ...issue, per_page: 1 })).map((l) => l.name);
  said.assignees = (await alice.issues.addAssignees({ ...issue, assignees: ["bob", "nobody"] })).data.assignees.map((u) => u.login);
  const seen = (await alice.issues.get(issue)).data;
  said.issue = [seen.title, seen.comments, Boolean(seen.pull_request)];
  said.conversationRefused = {
    blank: await refused(app.issues.createComment({ ...issue, body: " " })),
    none: await refused(app.issues.createComment(issue)),
    long: await refused(app.issues.createComment({ ...issue, body: long })),
    absent: await refused(app.issues.createComment({ ...here, issue_number: 999, body: "Hm." })),
    gone: await refused(alice.issues.getComment({ ...here, comment_id: ids[1] })),
    blanked: await refused(app.issues.updateComment({ ...comment, body: "" })),
    anothers: await refused(carol.issues.updateComment({ ...comment, body: "Mine." })),
    deletes: await refused(carol.issues.deleteComment(comment)),
    noLabel: await refused(alice.issues.removeLabel({ ...issue, name: "absent" })),
  };
}

async function merging() {
  said.merged = (await bob.pulls.merge({ ...pull, merge_method: "squash" })).data.merged;
  said.isMerged = (await alice.pulls.checkIfMerged(pull)).status;
  said.mergeRefused = await refused(bob.pulls.merge(pull));
}

for (const story of [pullRequests, checks, statuses, jobs, reviews, conversation, outdated, merging]) await story();
console.log(JSON.stringify({ said, driven: [...driven].sort(), differences: [...differences].sort() }));
