package bot

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/slack-go/slack"
	"pgregory.net/rapid"

	"openinspect/sessions"
)

var update = flag.Bool("update", false, "write the expected results of this package's golden tests")

// golden compares with a file of testdata, or writes it with -update.
func golden(t *testing.T, name string, got any) {
	t.Helper()
	data, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), string(data)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// answered is a completed prompt's view.
func answered(markdown string) answerView {
	return answerView{
		Prompt: sessions.Prompt{ID: "p1", State: sessions.Completed, Answer: markdown, Files: 2, Additions: 10, Deletions: 3, CostUSD: 0.123},
		Author: "UALICE", Took: 83e9, PageURL: "https://inspect.example.org/sessions/s1",
		Pulls: []sessions.Artifact{{Kind: "pull_request", URL: "https://github.com/acme/greeter/pull/7", Title: "#7 Greet politely"}},
	}
}

func blocksOf(parts []message) (out [][]slack.Block) {
	for _, m := range parts {
		out = append(out, m.blocks)
	}
	return out
}

func TestAnswersAreDrawnAsSlackShowsText(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.md")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files of Markdown: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".md"), func(t *testing.T) {
			t.Parallel()
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(filepath.Base(file), ".md")+".json", blocksOf(renderAnswer(answered(string(source)))))
		})
	}
}

// wellFormed checks what Slack would refuse.
func wellFormed(t rapid.TB, parts []message) {
	t.Helper()
	for i, m := range parts {
		tables, size := 0, 0
		for _, b := range m.blocks {
			switch b := b.(type) {
			case *slack.TableBlock:
				tables++
			case *slack.RichTextBlock:
				if len(b.Elements) == 0 {
					t.Errorf("part %d has an empty block", i)
				}
			case *slack.HeaderBlock:
				if n := utf8.RuneCountInString(b.Text.Text); n == 0 || n > 150 {
					t.Errorf("part %d has a header of %d characters", i, n)
				}
			}
		}
		data, err := json.Marshal(m.blocks)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range textsIn(t, data) {
			size += utf8.RuneCountInString(text)
			if text == "" {
				t.Errorf("part %d has an empty text", i)
			}
		}
		if len(m.blocks) > 50 || len(m.blocks) == 0 || tables > 1 || size > 12500 || m.text == "" {
			t.Errorf("part %d: %d blocks, %d tables, %d characters, notification %q", i, len(m.blocks), tables, size, m.text)
		}
	}
}

// textsIn collects every "text" in a JSON document.
func textsIn(t rapid.TB, data []byte) (out []string) {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			if s, is := v["text"].(string); is {
				out = append(out, s)
			}
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(v)
	return out
}

func TestALongAnswerIsSplitInOrderAndLosesNothing(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for i := range 120 {
		fmt.Fprintf(&source, "Paragraph %d says that %s.\n\n```go\nfunc f%d() { return }\n```\n\n- item %d.1\n- item %d.2\n\n", i, strings.Repeat("word ", 10), i, i, i)
	}
	parts := renderAnswer(answered(source.String()))
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	wellFormed(t, parts)
	all := ""
	for _, m := range parts {
		all += m.full + "\n"
	}
	at := 0
	for i := range 120 {
		for _, needle := range []string{fmt.Sprintf("Paragraph %d ", i), fmt.Sprintf("func f%d()", i), fmt.Sprintf("item %d.2", i)} {
			next := strings.Index(all[at:], needle)
			if next < 0 {
				t.Fatalf("%q is missing or out of order", needle)
			}
			at += next
		}
	}
	for i, m := range parts[:len(parts)-1] {
		for _, b := range m.blocks {
			if _, is := b.(*slack.ActionBlock); is {
				t.Errorf("part %d of %d has buttons", i, len(parts))
			}
		}
	}
}

func TestALongCodeBlockIsSplitIntoBoxesThatAreClosed(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for i := range 900 {
		fmt.Fprintf(&code, "line %04d of the program\n", i)
	}
	parts := renderAnswer(answered("Here it is:\n\n```go\n" + code.String() + "```\n\nThat was it."))
	wellFormed(t, parts)
	var joined []string
	for _, m := range parts {
		for _, b := range m.blocks {
			rich, is := b.(*slack.RichTextBlock)
			if !is {
				continue
			}
			for _, e := range rich.Elements {
				if pre, is := e.(*slack.RichTextPreformatted); is {
					if pre.Language != "go" {
						t.Errorf("a box lost its language")
					}
					joined = append(joined, plainOf(pre.Elements))
				}
			}
		}
	}
	if got := strings.Join(joined, "\n"); got != strings.TrimRight(code.String(), "\n") {
		t.Errorf("%d boxes hold %d bytes, want %d", len(joined), len(got), code.Len())
	}
}

func TestAVeryLongAnswerEndsWithALinkToThePage(t *testing.T) {
	t.Parallel()
	parts := renderAnswer(answered(strings.Repeat("All work and no play makes a dull answer. ", 3000)))
	wellFormed(t, parts)
	last, err := json.Marshal(parts[len(parts)-1].blocks)
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) > 5 || !strings.Contains(string(last), "Read all of it on the page") {
		t.Errorf("%d parts; the last: %s", len(parts), last)
	}
}

func TestAnAnswerOfNothingButShortParagraphsDoesNotFloodTheThread(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"a\n\n", "# T\n", "---\n"} {
		parts := renderAnswer(answered(strings.Repeat(line, 30000/len(line))))
		wellFormed(t, parts)
		last, err := json.Marshal(parts[len(parts)-1].blocks)
		if err != nil {
			t.Fatal(err)
		}
		if len(parts) > answerMessages || !strings.Contains(string(last), "Read all of it on the page") {
			t.Errorf("%q makes %d parts; the last: %s", line, len(parts), last)
		}
	}
}

func TestTheTitlesOfManyPullRequestsDoNotBreakTheirLinks(t *testing.T) {
	t.Parallel()
	v := answered("Done.")
	for range 4 {
		v.Pulls = append(v.Pulls, sessions.Artifact{Title: strings.Repeat("a & b ", 40), URL: "https://github.com/acme/greeter/pull/1"})
	}
	parts := renderAnswer(v)
	for _, b := range parts[0].blocks {
		if c, is := b.(*slack.ContextBlock); is {
			text := c.ContextElements.Elements[0].(*slack.TextBlockObject).Text
			if strings.Count(text, "<") != strings.Count(text, ">") || !strings.Contains(text, "Open the page") {
				t.Errorf("people see %s", text)
			}
		}
	}
}

func TestShortTextOfManyBlocksIsShownWhole(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("& <\n\n", 290) + "the end"
	body, err := json.Marshal(sessions.BodyUpdate{Text: long})
	if err != nil {
		t.Fatal(err)
	}
	update := renderUpdate(sessions.Delivery{Body: body})
	question := renderQuestion(sessions.Question{Prompt: "p", Text: strings.Repeat("&\n\n", 400) + "the end", Options: []string{"yes", "no"}}, "U1", "https://x.test/s")
	for name, m := range map[string]message{"update": update, "question": question} {
		wellFormed(t, []message{m})
		shown, err := json.Marshal(m.blocks)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(shown), "the end") || utf8.RuneCountInString(m.text) > 4000 {
			t.Errorf("the %s has %d characters for notifications and shows %s", name, utf8.RuneCountInString(m.text), shown)
		}
	}
}

func TestFailedAndStoppedAnswersSayWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*answerView)
	}{
		{"failed", func(v *answerView) {
			v.Prompt.State, v.Prompt.Reason, v.Prompt.Answer, v.Retry, v.Pulls = sessions.Failed, "The sandbox was lost <!channel>.", "", true, nil
		}},
		{"setup", func(v *answerView) {
			v.Prompt.State, v.Prompt.Answer, v.Retry, v.Pulls = sessions.Failed, "", true, nil
			v.Prompt.Reason = "The repository's setup script failed: exit 7.\n+ npm ci\ninstalling <the> impossible"
		}},
		{"stopped", func(v *answerView) {
			v.Prompt.State, v.Prompt.Reason, v.Prompt.Answer, v.Pulls = sessions.Stopped, "Stopped by Bob Brandt.", "I was *half* way.", nil
		}},
		{"unlinked", func(v *answerView) {
			v.Pulls = nil
			v.Waiting = &sessions.BodyWaiting{For: "github", Text: "Connect GitHub to have the pull request opened in your name.",
				URL: "https://inspect.example/link/github?session=s1", ByHand: "https://github.com/acme/greeter/compare/main...inspect/s1"}
		}},
		{"silent", func(v *answerView) { v.Prompt.Answer, v.Author = "", "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := answered("Done.")
			c.change(&v)
			parts := renderAnswer(v)
			wellFormed(t, parts)
			golden(t, "answer_"+c.name+".json", blocksOf(parts))
		})
	}
}

func TestAnyMarkdownIsDrawnWithinSlacksLimits(t *testing.T) {
	t.Parallel()
	fragment := rapid.SampledFrom([]string{
		"# T\n", "text ", "\n\n", "- a\n", "  - b\n", "1. c\n", "```\n", "`x`", "**b**", "_i_", "~~s~~", "> q\n", "| a | b |\n|---|---|\n| 1 | 2 |\n",
		"<!channel>", "<b>", "[l](http://x.example)", "[l](javascript:x)", "![i](https://x.example/i.png)", "\\*", "&amp;", "&#0;", "---\n", "- [x] t\n",
		"ü", "🎉", "\x00", strings.Repeat("long ", 900), strings.Repeat("x", 4000), "    code\n",
	})
	rapid.Check(t, func(rt *rapid.T) {
		source := strings.Join(rapid.SliceOfN(fragment, 0, 40).Draw(rt, "fragments"), "")
		wellFormed(rt, renderAnswer(answered(source)))
	})
}
