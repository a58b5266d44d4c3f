package web

import (
	"encoding/json"
	"html/template"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openinspect/sandbox"
	"openinspect/sessions"
)

func TestOutputIsShownAsATerminalLeavesIt(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"\x1b[31mred\x1b[0m and \x1b[1;4mbold\x1b[m":       "red and bold",
		"\x1b]8;;https://x.test\x07link\x1b]8;;\x07":       "link",
		" 10%\r 55%\r100%\ndone\r\n":                       "100%\ndone\n",
		"bell\x07 null\x00 tab\tkept":                      "bell null tab\tkept",
		"unfinished \x1b[":                                 "unfinished [",
		"grün \x1b[38;2;1;2;3mfarbig\x1b[39m, no \\x1b[0m": "grün farbig, no \\x1b[0m",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestADiffIsShownWithItsLineNumbers(t *testing.T) {
	t.Parallel()
	const patch = `diff --git a/old.go b/new.go
similarity index 80%
rename from old.go
rename to new.go
--- a/old.go
+++ b/new.go
@@ -3,3 +3,4 @@ func Greet() {
 	same
-	before
+	after
+	more
 	same
`
	want := []fileView{{Path: "new.go", Old: "old.go", Status: "renamed", Additions: 2, Deletions: 1,
		Hunks: []hunkView{{Where: "func Greet() {", Lines: []lineView{
			{3, 3, " ", "\tsame"}, {4, 0, "-", "\tbefore"}, {0, 4, "+", "\tafter"}, {0, 5, "+", "\tmore"}, {5, 6, " ", "\tsame"}}}}}}
	if diff := cmp.Diff(want, patchView(patch)); diff != "" {
		t.Error(diff)
	}
	cut := patchView(strings.TrimSuffix(patch, " \tsame\n"))
	if len(cut) != 1 || cut[0].Additions != 2 || cut[0].Deletions != 1 || len(cut[0].Hunks[0].Lines) == 0 {
		t.Errorf("a patch that was cut is shown as %+v", cut)
	}
}

func TestMarkdownIsRenderedAndHarmless(t *testing.T) {
	t.Parallel()
	endHighlighting(t)
	m := newMarkdown()
	for in, want := range map[string]string{
		"a **b** `c`":             "<strong>b</strong> <code>c</code>",
		"```go\nreturn 1\n```":    `<span class="k">return</span>`,
		"```\nplain <b>\n```":     "plain &lt;b&gt;",
		"|a|b|\n|-|-|\n|1|2|":     "<td>1</td>",
		"https://x.test/a":        `href="https://x.test/a"`,
		"see http://gitlab/a/b.":  `href="http://gitlab/a/b"`,
		"http://127.0.0.1:8080/x": `href="http://127.0.0.1:8080/x"`,
		"![cat](https://x.y/c)":   `>cat</a>`,
		"- [x] done":              `type="checkbox"`,
		"a <b>bold</b> tag":       "a &lt;b&gt;bold&lt;/b&gt; tag",
		"<div>\n*kept*\n</div>":   "&lt;div&gt;\n*kept*\n&lt;/div&gt;",
		"<!-- a\nb -->\nafter":    "&lt;!-- a\nb --&gt;",
	} {
		if got := string(m.html(in)); !strings.Contains(got, want) {
			t.Errorf("%q is shown as %s, want %s in it", in, got, want)
		}
	}
	for _, in := range attacks {
		got := strings.ToLower(string(m.html(in)))
		for _, bad := range []string{"<script", "<img", "<iframe", "<style", "<base", "<form", "<svg", `href="javascript`, `href="feed`, "onerror=\""} {
			if strings.Contains(got, bad) {
				t.Errorf("%q is shown as %s", in, got)
			}
		}
	}
}

func TestFoldKeepsWhatIsOpenUntilItIsSuperseded(t *testing.T) {
	t.Parallel()
	show := func(rows ...row) string {
		var out []string
		for _, r := range fold(rows) {
			out = append(out, string(r.HTML))
		}
		return strings.Join(out, " ")
	}
	r := func(html, key string, open, inPlace bool) row {
		return row{HTML: template.HTML(html), Key: key, Open: open, InPlace: inPlace}
	}
	for name, tc := range map[string]struct{ got, want string }{
		"moved to its end":       {show(r("run", "t", true, false), r("x", "", false, false), r("end", "t", false, false)), "x end"},
		"kept in its place":      {show(r("run", "p", true, false), r("x", "", false, false), r("end", "p", false, true)), "end x"},
		"the newest of several":  {show(r("1", "d", true, false), r("2", "d", true, false), r("3", "d", true, false)), "3"},
		"closed ones stay":       {show(r("1", "p", false, false), r("2", "p", false, false)), "1 2"},
		"a second boot":          {show(r("a", "p", true, true), r("b", "p", false, true), r("c", "p", true, true), r("d", "p", false, true)), "b d"},
		"without a key":          {show(r("1", "", true, false), r("2", "", true, false)), "1 2"},
		"what shows nothing not": {show(r("", "t", true, false), r("x", "", false, false)), "x"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %q, want %q", name, tc.got, tc.want)
		}
	}
}

func TestWhatIsNormalIsALineAndWhatPeopleHaveToDoHasButtons(t *testing.T) {
	t.Parallel()
	endHighlighting(t)
	static, err := newAssets()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := parseTemplates(static)
	if err != nil {
		t.Fatal(err)
	}
	rd := newRowRenderer(nil, pages)
	show := func(kind, prompt string, body any) string {
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r, err := rd.render(t.Context(), sessions.Event{Session: "s1", Seq: 1, Prompt: prompt, Kind: kind, Body: data})
		if err != nil {
			t.Fatal(err)
		}
		return string(r.HTML)
	}
	if got := show(sandbox.KindNote, "", sandbox.BodyNote{Text: "The sandbox is parked."}); strings.Contains(got, "callout") || !strings.Contains(got, "is parked") {
		t.Errorf("a parked sandbox is shown as %s", got)
	}
	if got := show(sandbox.KindNote, "p1", sandbox.BodyNote{Text: "Too large."}); !strings.Contains(got, "callout") {
		t.Errorf("a remark on a request is shown as %s", got)
	}
	ask := show(sessions.KindWaiting, "p1", sessions.BodyWaiting{For: "github", Text: "Not connected.",
		URL: "https://inspect.test/link/github", ByHand: "https://github.test/compare"})
	for _, want := range []string{`href="https://inspect.test/link/github">Connect GitHub`, `href="https://github.test/compare"`, "Open it by hand"} {
		if !strings.Contains(ask, want) {
			t.Errorf("the question is shown as %s, want %s in it", ask, want)
		}
	}
}
