package sandbox

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// Whatever the words and the text are, and in whatever pieces the text comes, a
// word is found if and only if it is there.
func TestEveryFormOfASecretIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secrets := map[string]string{}
		for i, value := range rapid.SliceOfN(rapid.StringMatching(`[ab/+]{8,12}`), 1, 4).Draw(t, "secrets") {
			secrets[fmt.Sprintf("S%d", i)] = value
		}
		m := NewMatcher(maps.All(secrets))
		pieces := rapid.SliceOfN(rapid.OneOf(rapid.StringMatching(`[ab/+]{0,9}`), rapid.SampledFrom(slices.Collect(maps.Values(secrets)))), 0, 6).Draw(t, "pieces")
		text := strings.Join(pieces, "")
		there := false
		for _, value := range secrets {
			for _, form := range SecretForms(value) {
				there = there || strings.Contains(text, form)
			}
		}
		name, err := m.Search(iotest.OneByteReader(strings.NewReader(text)), make([]byte, 2*m.longest+1))
		if err != nil || (name != "") != there {
			t.Fatalf("search in %q says %q (%v)", text, name, err)
		}
		clean, changed := m.Replace([]byte(text))
		if at, _ := m.find(clean); at >= 0 || changed != there {
			t.Fatalf("%q became %q", text, clean)
		}
	})
}

// BenchmarkSearchingAFile measures how fast one large file is looked through.
func BenchmarkSearchingAFile(b *testing.B) {
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = "etaoin shrdlu cmfwyp vbgkqj xz.,;(){}=+-/*0123456789\n"[rand.IntN(53)]
	}
	m := NewMatcher(maps.All(map[string]string{"A": "npm_5Jk2pQ9xZr7Wm3Tn", "B": "another-secret-value", "C": "d41d8cd98f00b204e9800998ecf8427e"}))
	buf := m.Buffer()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if name, err := m.Search(io.MultiReader(bytes.NewReader(data)), buf); err != nil || name != "" {
			b.Fatal(name, err)
		}
	}
}
