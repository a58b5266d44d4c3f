package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"openinspect/sandbox"
)

const askScript = `match which zone
step
say
	There are two ways.
call bash
	description: Look
	command: echo looked > looked.txt
step
say
	One of them has to be chosen.
call ask
	question: Which time zone?
	options = ["UTC", "The reader's"]
step
say
	This must never be said.
call bash
	description: Go on without an answer
	command: echo went on > wenton.txt
step
say
	Nor this.
`

const utcScript = `match ^UTC$
step
say
	It is UTC then.
`

func TestAskingEndsTheTurnAndTheAnswerGoesOnWithTheConversation(t *testing.T) {
	t.Parallel()
	p := newPlane(t, askScript, utcScript)
	b := p.newBox()
	p.prompt("p1", "which zone", "Alice")
	b.start()
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "One of them has to be chosen." {
		t.Errorf("settled as %+v", end)
	}
	p.mu.Lock()
	calls := slices.Clone(p.calls)
	p.mu.Unlock()
	var args askArgs
	if len(calls) != 1 || calls[0].Tool != "ask" || json.Unmarshal(calls[0].Args, &args) != nil || len(args.Options) != 2 {
		t.Errorf("calls: %+v", calls)
	}
	p.prompt("p2", "UTC", "Bob")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "It is UTC then." {
		t.Errorf("the answer settled as %+v", end)
	}
	p.checkRemembered("Which time zone?")
	log := p.sh(p.remote(), "git log --format=%an --name-only main..inspect/s1")
	if !strings.Contains(log, "looked.txt") || strings.Contains(log, "wenton.txt") {
		t.Errorf("the branch holds %s", log)
	}
	for _, text := range of[sandbox.BodyText](p, "p1", sandbox.KindText) {
		if strings.Contains(text.Text, "never be said") {
			t.Error("the agent went on without the answer")
		}
	}
}

// takeUpload keeps a file that the supervisor sent.
func (p *plane) takeUpload(_ context.Context, token string, u sandbox.Upload) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if token != testToken || u.Name == "refuse.me" {
		return &sandbox.RefusedUpload{Text: "It is not taken."}
	}
	if p.busy > 0 {
		p.busy--
		p.refused = append(p.refused, u.ID)
		return errors.New("it is being started again")
	}
	p.uploads = append(p.uploads, u)
	return nil
}

const uploadScript = `match show the chart
step
call bash
	description: Draw
	command: printf chart > chart.txt; ln -sf /proc/$PPID/environ environ.txt; ln -sf /proc/self/environ self.txt; mkdir -p dir; mkfifo pipe; : > empty.txt; printf x > refuse.me
step
call upload_artifact
	path: chart.txt
	title: The chart
call upload_artifact
	path: self.txt
call upload_artifact
	path: /proc/self/environ
call upload_artifact
	path: dir
call upload_artifact
	path: pipe
call upload_artifact
	path: empty.txt
call upload_artifact
	path: absent.txt
call upload_artifact
	path: refuse.me
step
say
	Shown.
`

func TestTheAgentShowsFilesAndNothingOfTheKernels(t *testing.T) { // I7
	t.Parallel()
	p := newPlane(t, uploadScript)
	p.busy = 2
	b := p.newBox()
	p.prompt("p1", "show the chart", "Alice")
	b.start()
	if end := p.settled("p1"); end.Answer != "Shown." {
		t.Errorf("settled as %+v", end)
	}
	said := ""
	for _, tool := range of[sandbox.BodyTool](p, "p1", sandbox.KindTool) {
		if tool.State != "running" && tool.Tool == "openinspect_upload_artifact" {
			said += tool.Output + tool.Error + "\n"
		}
	}
	for _, want := range []string{"is the kernel's", "is not a file", "is empty", "no such file", "It is not taken."} {
		if !strings.Contains(said, want) {
			t.Errorf("the agent does not read %q:\n%s", want, said)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.uploads) != 1 || p.uploads[0].Name != "chart.txt" || string(p.uploads[0].Data) != "chart" {
		t.Fatalf("the control plane got %d files, first %+v", len(p.uploads), p.uploads)
	}
	if id := p.uploads[0].ID; !slices.Equal(p.refused, []string{id, id}) {
		t.Errorf("the file came as %q first, and as %s then", p.refused, id)
	}
	var claim claimedUpload
	if len(p.calls) != 1 || json.Unmarshal(p.calls[0].Args, &claim) != nil || claim.Upload != p.uploads[0].ID || claim.Title != "The chart" {
		t.Errorf("calls: %+v", p.calls)
	}
}

const shotScript = `match show the page
step
call bash
	description: Write pages
	command: printf '<body style="margin:0;height:3000px;background:#0a0"><script>document.title=navigator.userAgent</script>' > page.html
step
call screenshot
	file: page.html
	title: The page <before>
	width = 400
	height = 300
	full_page = true
call screenshot
	url: https://example.com/
	title: Elsewhere
call screenshot
	url: http://127.0.0.1:1/
	title: Nobody there
call screenshot
	title: Nothing
call screenshot
	file: page.html
	title: Too small
	width = 10
step
call bash
	description: Look at it
	command: ls ${TMPDIR:-/tmp}/screenshots
step
say
	Shown: {{.Result "bash"}}
`

func TestAPictureOfAPageInTheSandboxIsTakenAndSent(t *testing.T) {
	t.Parallel()
	p := newPlane(t, shotScript)
	b := p.newBox()
	p.prompt("p1", "show the page", "Alice")
	b.start()
	if end := p.settled("p1"); !strings.Contains(end.Answer, "the-page-before.png") {
		t.Errorf("settled as %+v", end)
	}
	said := ""
	for _, tool := range of[sandbox.BodyTool](p, "p1", sandbox.KindTool) {
		if tool.State != "running" && tool.Tool == "openinspect_screenshot" {
			said += tool.Output + tool.Error + "\n"
		}
	}
	for _, want := range []string{"look at it yourself, read ", "example.com is outside of it", "could not be opened",
		"either url or file", "200 to 3840 pixels"} {
		if !strings.Contains(said, want) {
			t.Errorf("the agent does not read %q:\n%s", want, said)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.uploads) != 1 || p.uploads[0].Name != "the-page-before.png" {
		t.Fatalf("the control plane got %d files", len(p.uploads))
	}
	picture, err := png.Decode(bytes.NewReader(p.uploads[0].Data))
	if err != nil {
		t.Fatal(err)
	}
	if size := picture.Bounds().Size(); size.X != 400 || size.Y != 3000 {
		t.Errorf("the picture has %v", size)
	}
	if r, g, b, _ := picture.At(10, 2900).RGBA(); r>>8 != 0 || g>>8 != 0xaa || b>>8 != 0 {
		t.Errorf("its end is %x %x %x", r>>8, g>>8, b>>8)
	}
	var claim claimedUpload
	if len(p.calls) != 1 || p.calls[0].Tool != "screenshot" || json.Unmarshal(p.calls[0].Args, &claim) != nil || claim.Kind != "screenshot" || claim.Title != "The page <before>" {
		t.Errorf("calls: %+v", p.calls)
	}
}

func TestWithoutABrowserTheAgentIsToldWhoCanHelp(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if _, err := browserPath([]string{"no-such-browser"}, home, ""); err == nil || !strings.Contains(err.Error(), "an operator can install Chromium") {
		t.Errorf("without a browser: %v", err)
	}
	for _, path := range []string{ // of older releases of Playwright, and of 1.65
		filepath.Join(home, ".cache", "ms-playwright", "chromium-1200", "chrome-linux", "chrome"),
		filepath.Join(home, "set", "chromium_headless_shell-1255", "chrome-headless-shell-linux64", "chrome-headless-shell"),
		filepath.Join(home, "set", "chromium-1255", "chrome-linux64", "chrome"),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if got, err := browserPath([]string{"no-such-browser"}, home, filepath.Join(home, "set")); err != nil || got != path {
			t.Errorf("Playwright's browser is found at %q (%v), not %q", got, err, path)
		}
	}
}

const manyToolsScript = `match use them all
step
call set_title
	title: All of them
step
call post_update
	text: Half way.
step
call get_checks
	wait_seconds = 1
step
call get_review
step
call reply_to_review
	comment = 7
	body: Done.
step
call update_pull_request
	draft = false
step
say
	All of them answered: {{.Result "update_pull_request"}}
`

func TestOpenCodeCallsTheToolsWithTheArgumentsThatTheyTake(t *testing.T) {
	t.Parallel()
	p := newPlane(t, manyToolsScript)
	b := p.newBox()
	p.prompt("p1", "use them all", "Alice")
	b.start()
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || !strings.Contains(end.Answer, "All of them answered: opened https") {
		t.Errorf("settled as %+v", end)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var got []string
	for _, c := range p.calls {
		got = append(got, c.Tool+string(c.Args))
	}
	want := []string{`set_title{"title":"All of them"}`, `post_update{"text":"Half way."}`, `get_checks{"wait_seconds":1}`,
		`get_review{}`, `reply_to_review{"comment":7,"body":"Done."}`, `update_pull_request{"draft":false}`}
	if !slices.Equal(got, want) {
		t.Errorf("calls:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
