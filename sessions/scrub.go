package sessions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"openinspect/sandbox"
)

// tokenShape is what GitHub's tokens look like (docs.github.com, "GitHub's token
// formats"; those of installations may be long and contain dots): known or not,
// they are nothing for anybody's eyes.
var tokenShape = regexp.MustCompile(`(?:gh[opsur]_|github_pat_)[A-Za-z0-9._-]{20,1000}`)

// tokenPrefixes are how those begin.
var tokenPrefixes = []string{"gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_"}

// longestToken is the most that is held back of what may become one.
const longestToken = 1024

// scrubber removes secrets from text (I10). It is safe for concurrent use.
type scrubber struct {
	forms []string // each secret as such and as it looks encoded; longest first
}

func newScrubber(secrets []string) *scrubber { return (&scrubber{}).with(secrets...) }

// with returns a scrubber that knows further secrets.
func (s *scrubber) with(secrets ...string) *scrubber {
	forms := slices.Clone(s.forms)
	for _, secret := range secrets {
		forms = append(forms, sandbox.SecretForms(secret)...)
	}
	slices.SortFunc(forms, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return &scrubber{forms: slices.Compact(forms)}
}

// text returns t without secrets.
func (s *scrubber) text(t string) string {
	for _, f := range s.forms {
		if strings.Contains(t, f) {
			t = strings.ReplaceAll(t, f, sandbox.Redacted)
		}
	}
	if strings.Contains(t, "gh") || strings.Contains(t, "github_pat_") {
		t = tokenShape.ReplaceAllString(t, sandbox.Redacted)
	}
	return t
}

// holdBack returns how many bytes at the end of t may be the beginning of a
// secret: they must not be shown before it is known what follows.
func (s *scrubber) holdBack(t string) int {
	if t == "" {
		return 0
	}
	hold, last := 0, t[len(t)-1]
	for _, f := range s.forms {
		for n := min(len(f)-1, len(t)); n > hold; n-- {
			if f[n-1] == last && strings.HasSuffix(t, f[:n]) {
				hold = n
				break
			}
		}
	}
	return max(hold, holdShape(t))
}

// safe returns how many bytes at the beginning of t can be scrubbed and shown
// before it is known what follows: without the end that may begin a secret, and
// never with a part of a secret that is there already.
func (s *scrubber) safe(t string) int {
	return s.undivided(t, len(t)-s.holdBack(t))
}

// undivided returns the last place up to cut where t can be cut without dividing a secret.
func (s *scrubber) undivided(t string, cut int) int {
	for {
		start := s.startOfMatch(t, cut)
		if start == cut {
			return cut
		}
		cut = start
	}
}

// startOfMatch returns where a secret begins that the cut would divide, or the cut.
func (s *scrubber) startOfMatch(t string, cut int) int {
	for _, f := range s.forms {
		from := max(0, cut-len(f)+1)
		if i := strings.Index(t[from:min(len(t), cut+len(f)-1)], f); i >= 0 {
			return from + i
		}
	}
	for _, m := range tokenShape.FindAllStringIndex(t, -1) {
		if m[0] < cut && cut < m[1] {
			return m[0]
		}
	}
	return cut
}

// holdShape is holdBack for the shape of GitHub's tokens: what stands at the end
// of t from the first thing on that begins like one, with nothing but characters
// of a token after it.
func holdShape(t string) int {
	start := len(t)
	for start > 0 && len(t)-start < longestToken && isTokenByte(t[start-1]) {
		start--
	}
	for i := start; i < len(t); i++ {
		for _, prefix := range tokenPrefixes {
			if strings.HasPrefix(t[i:], prefix) || strings.HasPrefix(prefix, t[i:]) {
				return len(t) - i
			}
		}
	}
	return 0
}

func isTokenByte(c byte) bool {
	return c == '_' || c == '.' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// json returns the document without secrets in its strings and names, in valid
// UTF-8 and without NUL characters, which Postgres does not store.
func (s *scrubber) json(data []byte) (json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("reading a body: %w", err)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s.value(v)); err != nil {
		return nil, fmt.Errorf("encoding a body: %w", err)
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}

func (s *scrubber) value(v any) any {
	switch v := v.(type) {
	case string:
		return s.text(storable(v))
	case []any:
		for i := range v {
			v[i] = s.value(v[i])
		}
	case map[string]any:
		for name, field := range v {
			clean := s.text(storable(name))
			if clean != name {
				delete(v, name)
			}
			v[clean] = s.value(field)
		}
	}
	return v
}

// storable makes text that Postgres stores.
func storable(t string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(t, "\uFFFD"), "\x00", "\uFFFD")
}
