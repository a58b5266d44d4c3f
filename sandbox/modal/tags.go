package modal

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/url"
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

// encodeTags writes tags with the characters of URLs: which others Modal takes
// is not documented.
func encodeTags(tags map[string]string) map[string]string {
	out := make(map[string]string, len(tags))
	for k, v := range tags {
		out[url.QueryEscape(k)] = url.QueryEscape(v)
	}
	return out
}

// decodeTags reads them. What is not ours stays as it is.
func decodeTags(tags map[string]string) map[string]string {
	plain := func(s string) string {
		if d, err := url.QueryUnescape(s); err == nil {
			return d
		}
		return s
	}
	out := make(map[string]string, len(tags))
	for k, v := range tags {
		out[plain(k)] = plain(v)
	}
	return out
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
