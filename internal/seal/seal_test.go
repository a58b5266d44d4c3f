package seal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func key(t *testing.T, fill byte) *Key {
	t.Helper()
	k, err := Parse(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, keySize)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhatIsSealedOpensAgain(t *testing.T) {
	t.Parallel()
	k := key(t, 0xfb)
	for _, plain := range []string{"", "ghu_secret", strings.Repeat("x", 100_000)} {
		sealed := k.Seal("people.github_access", []byte(plain))
		if len(plain) > 0 && bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("the sealed value shows %.20q", plain)
		}
		got, err := k.Open("people.github_access", sealed)
		if err != nil || string(got) != plain {
			t.Errorf("Open = %.20q, %v; want %.20q", got, err, plain)
		}
	}
}

func TestSealingTwiceDiffers(t *testing.T) {
	t.Parallel()
	k := key(t, 1)
	if bytes.Equal(k.Seal("p", []byte("same")), k.Seal("p", []byte("same"))) {
		t.Error("the same plain text was sealed to the same bytes: the nonce repeats")
	}
}

func TestWhatMustNotOpen(t *testing.T) {
	t.Parallel()
	k := key(t, 1)
	sealed := k.Seal("access", []byte("ghu_secret"))
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		key     *Key
		purpose string
		sealed  []byte
		want    error
	}{
		"another purpose": {k, "refresh", sealed, ErrDamaged},
		"another key":     {key(t, 2), "access", sealed, ErrKey},
		"a changed byte":  {k, "access", flipped, ErrDamaged},
		"a cut value":     {k, "access", sealed[:len(sealed)-3], ErrDamaged},
		"only a header":   {k, "access", sealed[:5], ErrDamaged},
		"nothing":         {k, "access", nil, ErrDamaged},
		"another version": {k, "access", append([]byte{9}, sealed[1:]...), ErrDamaged},
	} {
		if got, err := c.key.Open(c.purpose, c.sealed); !errors.Is(err, c.want) {
			t.Errorf("%s: Open = %q, %v; want error %v", name, got, err, c.want)
		}
	}
}

func TestKeysAreReadInEveryAlphabet(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte{0xfb, 0xff}, keySize/2)
	sealed := (func() []byte {
		k, err := Parse(base64.StdEncoding.EncodeToString(raw))
		if err != nil {
			t.Fatal(err)
		}
		return k.Seal("p", []byte("x"))
	})()
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		k, err := Parse(" " + enc.EncodeToString(raw) + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Open("p", sealed); err != nil {
			t.Errorf("the same key in another alphabet does not open: %v", err)
		}
	}
}

func TestWrongKeysAreRefusedWithoutShowingThem(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "not base64 at all!", base64.StdEncoding.EncodeToString([]byte("short-but-secret"))} {
		_, err := Parse(text)
		if err == nil {
			t.Errorf("Parse(%q) succeeded", text)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}
