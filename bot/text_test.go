package bot

import (
	"strings"
	"testing"
)

func TestSlackTextBecomesPlainTextWithMarkdownLinks(t *testing.T) {
	t.Parallel()
	name := func(user string) string {
		if user == "UALICE" {
			return "Alice Ahmed"
		}
		return user
	}
	for in, want := range map[string]string{
		"a &lt;b&gt; &amp;&amp; c":                                         "a <b> && c",
		"ask <@UALICE> or <@UBOB|bob> or <@UNOBODY>":                       "ask @Alice Ahmed or @bob or @UNOBODY",
		"see <https://example.org/x?a=1&amp;b=2>":                          "see https://example.org/x?a=1&b=2",
		"see <https://example.org/|the docs>":                              "see [the docs](https://example.org/)",
		"see <http://example.org|example.org>":                             "see http://example.org",
		"in <#C1|general> and <#C2>":                                       "in #general and #C2",
		"<!here> <!subteam^S1|@devs> <!date^1700000000^{date}|14 Nov>":     "@here @devs 14 Nov",
		"write to <mailto:a@example.org|a@example.org>":                    "write to a@example.org",
		"```if a &lt; b {\n\treturn &amp;b\n}```":                          "```if a < b {\n\treturn &b\n}```",
		"unclosed < and &lt;!channel&gt; typed by hand &amp;amp; a > sign": "unclosed < and <!channel> typed by hand &amp; a > sign",
	} {
		if got := decodeText(in, name); got != want {
			t.Errorf("decodeText(%q)\n got %q\nwant %q", in, got, want)
		}
	}
}

func TestAddressesInNoticesAreShortLinks(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a <b> & c": "a &lt;b&gt; &amp; c",
		"Connect it: http://127.0.0.1:80/link?s=1":  "Connect it: <http://127.0.0.1:80/link?s=1|127.0.0.1:80/link?…>",
		"at https://x.test/a?b=1&c=%3C. Then":       "at <https://x.test/a?b=1&amp;c=%3C|x.test/a?…>. Then",
		"<https://x.test|y> <!channel>":             "&lt;<https://x.test|x.test>|y&gt; &lt;!channel&gt;",
		"https://x.test/" + strings.Repeat("a", 99): "<https://x.test/" + strings.Repeat("a", 99) + "|x.test/" + strings.Repeat("a", 72) + "…>",
	} {
		if got := escapeLinked(in); got != want {
			t.Errorf("escapeLinked(%q)\n got %q\nwant %q", in, got, want)
		}
	}
}

func TestMentionsThatOnlyAddressTheBotAreRemoved(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"<@UBOT> fix it":                        "fix it",
		"<@UBOT>: fix it":                       "fix it",
		"<@UBOT|inspect>, <@UBOT> fix it":       "fix it",
		"fix it, <@UBOT>":                       "fix it,",
		"<@UBOT>":                               "",
		"  <@UBOT>  \n":                         "",
		"tell <@UBOT> about <@UALICE>":          "tell <@UBOT> about <@UALICE>",
		"<@UBOT> ask <@UALICE>":                 "ask <@UALICE>",
		"<@UALICE> did <@UBOT> do that?":        "<@UALICE> did <@UBOT> do that?",
		"<@UBOT>\nfix\nthese lines":             "fix\nthese lines",
		"<@UBOTHER> is another bot, not <@UBO>": "<@UBOTHER> is another bot, not <@UBO>",
	} {
		if got := withoutMention(in, "UBOT"); got != want {
			t.Errorf("withoutMention(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestStopIsHeardHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"stop", "Stop", "STOP!", " stop. ", "stop!!!", "/stop", "*stop*", "please stop", "`stop`"} {
		if !isStop(text) {
			t.Errorf("%q is not taken for stop", text)
		}
	}
	for _, text := range []string{"", "stop the server from crashing", "don't stop", "stopping", "non-stop", "stop, then deploy"} {
		if isStop(text) {
			t.Errorf("%q is taken for stop", text)
		}
	}
}

func TestTextOfTheAgentCannotNotifyOrForgeLinks(t *testing.T) {
	t.Parallel()
	for _, hostile := range []string{
		"<!channel>", "<!here|x>", "<@UALICE>", "<https://evil.example|https://bank.example>", "a>b<c&d", "<!subteam^S1>",
	} {
		for what, got := range map[string]string{
			"escape": escape(hostile), "code": code(hostile), "label": link("https://ok.example", hostile), "address": link(hostile, "x"),
		} {
			inner := got
			inner = strings.TrimSuffix(strings.TrimPrefix(inner, "<https://ok.example|"), ">")
			if strings.ContainsAny(inner, "<>") || what == "label" && strings.Contains(inner, "|") {
				t.Errorf("%s(%q) = %q still has markup", what, hostile, got)
			}
		}
	}
	for _, url := range []string{"javascript:alert(1)", "file:///etc/passwd", "slack://x", "https://a b", "", "https://", "data:text/html,x", "https://a>b"} {
		if safeURL(url) {
			t.Errorf("%q may be linked to", url)
		}
	}
	if got := code("a `b` c"); got != "`a 'b' c`" {
		t.Errorf("inline code is left early: %s", got)
	}
}

func TestClipKeepsWholeCharacters(t *testing.T) {
	t.Parallel()
	if got := clip("größer als erlaubt", 8); got != "größer…" {
		t.Errorf("got %q", got)
	}
	if got := clip("kurz", 4); got != "kurz" {
		t.Errorf("got %q", got)
	}
}
