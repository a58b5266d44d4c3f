package sessions_test

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"openinspect/sandbox"
	"openinspect/sessions"
)

const modelKey = "sk/model+key=with&odd\"characters"

func TestSecretsAreFoundHoweverTheyAreWritten(t *testing.T) { // I10
	t.Parallel()
	s := sessions.NewScrubber([]string{modelKey, "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END KEY-----\n", "short"})
	quoted, err := json.Marshal(modelKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"plain":              modelKey,
		"query":              url.QueryEscape(modelKey),
		"path":               url.PathEscape(modelKey),
		"JSON":               string(quoted),
		"base64":             base64.StdEncoding.EncodeToString([]byte(modelKey)),
		"base64 after 1":     base64.StdEncoding.EncodeToString([]byte("x" + modelKey + "yz")),
		"base64 after 2":     base64.StdEncoding.EncodeToString([]byte("xy" + modelKey + "z")),
		"basic auth":         base64.StdEncoding.EncodeToString([]byte("x-access-token:" + modelKey)),
		"base64 of URLs":     base64.URLEncoding.EncodeToString([]byte("a" + modelKey)),
		"a line of a key":    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
		"GitHub's token":     "ghs_" + strings.Repeat("x", 36),
		"GitHub's long one":  "ghs_APPID_" + strings.Repeat("x.y-", 100),
		"fine-grained token": "github_pat_" + strings.Repeat("x", 60),
	} {
		got := s.Text("before " + text + " after")
		if !strings.Contains(got, "[redacted]") || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %q became %q", name, text, got)
		}
		if core := text[4 : len(text)-6]; len(core) > 8 && strings.Contains(got, core) {
			t.Errorf("%s: %q still shows the secret", name, got)
		}
	}
	for _, harmless := range []string{"short", "ghs_short", "a pattern", "x" + modelKey[1:]} {
		if got := s.Text(harmless); got != harmless {
			t.Errorf("%q became %q", harmless, got)
		}
	}
}

// Whatever pieces a text comes in, what readers were shown at any moment holds no
// secret, and in the end is the scrubbed text.
func TestPiecesOfASecretAreHeldBack(t *testing.T) { // I10
	t.Parallel()
	scrub := sessions.NewScrubber([]string{modelKey})
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.SampledFrom([]string{"a ", "sk", "sk/model", modelKey, "g", "gh", "ghs_", "ghs_" + strings.Repeat("Z", 36), "\n", "é"}), 1, 8).Draw(t, "words")
		text := strings.Join(words, "") + " end"
		parts := sessions.NewParts(scrub)
		shown := ""
		for i := 0; i < len(text); {
			n := rapid.IntRange(1, 9).Draw(t, "piece")
			end := min(i+n, len(text))
			d := parts.Add(sandbox.Delta{Part: "p", Offset: i, Text: text[i:end]})
			i = end
			if d == nil {
				continue
			}
			shown = shown[:d.Offset] + d.Text
			if strings.Contains(shown, modelKey) || strings.Contains(shown, "ghs_ZZZZZZZZZZZZZZZZZZZZ") {
				t.Fatalf("shown at some moment: %q", shown)
			}
		}
		if want := scrub.Text(text); shown != want[:len(shown)] || len(want)-len(shown) > 3 {
			t.Fatalf("shown in the end: %q, want %q", shown, want)
		}
	})
}

func TestARewrittenOrRepeatedPartStaysWhole(t *testing.T) {
	t.Parallel()
	parts := sessions.NewParts(sessions.NewScrubber(nil))
	shown := ""
	for _, d := range []sandbox.Delta{
		{Part: "p", Offset: 0, Text: "hello wo"},
		{Part: "p", Offset: 8, Text: "rld."},
		{Part: "p", Offset: 0, Text: "hello world."}, // repeated after a lost connection
		{Part: "p", Offset: 6, Text: "there."},       // rewritten
		{Part: "p", Offset: 99, Text: "gap"},         // never fits
		{Part: "p", Offset: 12, Text: " Bye."},
	} {
		if got := parts.Add(d); got != nil {
			shown = shown[:got.Offset] + got.Text
		}
	}
	if shown != "hello there. Bye." {
		t.Errorf("shown: %q", shown)
	}
}

func BenchmarkScrub(b *testing.B) {
	var secrets []string
	for range 10 {
		var s strings.Builder
		for range 40 {
			s.WriteByte(byte('!' + rand.IntN(90)))
		}
		secrets = append(secrets, s.String())
	}
	scrub := sessions.NewScrubber(secrets)
	text := strings.Repeat("an ordinary line of output\n", 26)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		scrub.Text(text)
	}
}
