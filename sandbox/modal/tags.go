package modal

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"

	"openinspect/sandbox"
)

// Tags that the provider adds to those of a Spec.
const (
	ownTags   = "openinspect." // begins all of them
	tagName   = ownTags + "name"
	tagBorn   = ownTags + "born"
	tagStart  = ownTags + "start"  // known to the call that started the box alone
	tagParked = ownTags + "parked" // the image that the parked box was saved as
)

// Modal's names have at most 64 of these characters, and must not look like the
// id of an app. Ours that fit are used as they are, unless they look like one
// that was made for a name that does not.
var (
	plainName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	appIDForm = regexp.MustCompile(`^ap-[A-Za-z0-9]{22}$`)
)

const hashedName = "h."

// modalName makes Modal's name of ours; two of ours never have the same.
func modalName(name string) string {
	if plainName.MatchString(name) && !appIDForm.MatchString(name) && !strings.HasPrefix(name, hashedName) {
		return name
	}
	readable := strings.Map(func(r rune) rune {
		if strings.ContainsRune("_.-", r) || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, name)
	sum := sha256.Sum256([]byte(name))
	const most = 64 - len(hashedName) - 1 - 32
	return hashedName + readable[:min(len(readable), most)] + "." + hex.EncodeToString(sum[:16])
}

// maxTag is how long the names and the values of tags may be. Modal's Python SDK
// takes 1 to 63 letters, digits and "._-" in each; the others do not look, and
// what the server does is not documented.
const maxTag = 63

// encodeTag writes a word with the characters of tags: every other byte, and "_",
// as "_" and two hexadecimal digits; nothing at all as "_".
func encodeTag(s string) string {
	if s == "" {
		return "_"
	}
	var out strings.Builder
	for _, c := range []byte(s) {
		if c == '.' || c == '-' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "_%02x", c)
		}
	}
	return out.String()
}

// decodeTag reads it. What nobody has encoded stays as it is.
func decodeTag(s string) string {
	if s == "_" {
		return ""
	}
	parts := strings.Split(s, "_")
	out := []byte(parts[0])
	for _, part := range parts[1:] {
		if len(part) < 2 {
			return s
		}
		c, err := hex.DecodeString(part[:2])
		if err != nil {
			return s
		}
		out = append(append(out, c[0]), part[2:]...)
	}
	return string(out)
}

func encodeTags(tags map[string]string) map[string]string { return mapTags(tags, encodeTag) }

func decodeTags(tags map[string]string) map[string]string { return mapTags(tags, decodeTag) }

func mapTags(tags map[string]string, f func(string) string) map[string]string {
	out := make(map[string]string, len(tags))
	for k, v := range tags {
		out[f(k)] = f(v)
	}
	return out
}

// checkTags refuses what would not fit.
func checkTags(tags map[string]string) error {
	for k, v := range tags {
		if len(encodeTag(k)) > maxTag || len(encodeTag(v)) > maxTag {
			return sandbox.Invalid("the tag %s=%q is too long: Modal takes %d letters and digits for each, and others count as three", k, v, maxTag)
		}
	}
	return nil
}

// startTags are the tags of a new box.
func startTags(s sandbox.Spec, start string, born time.Time) map[string]string {
	tags := maps.Clone(s.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	tags[tagName], tags[tagBorn], tags[tagStart] = s.Name, born.Format(time.RFC3339Nano), start
	return tags
}

// infoOf describes a box by its tags.
func infoOf(id string, tags map[string]string) sandbox.Info {
	info := sandbox.Info{ID: id, Name: tags[tagName]}
	info.Born, _ = time.Parse(time.RFC3339Nano, tags[tagBorn]) // zero if somebody else made the sandbox
	for k, v := range tags {
		if !strings.HasPrefix(k, ownTags) {
			if info.Tags == nil {
				info.Tags = map[string]string{}
			}
			info.Tags[k] = v
		}
	}
	return info
}
