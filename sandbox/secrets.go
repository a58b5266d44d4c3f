package sandbox

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// ShortestSecret is how many bytes a secret has at least that can be told from
// ordinary text.
const ShortestSecret = 8

// longLine is how long a line or a field of a secret has to be to be a secret
// itself.
const longLine = 24

// SecretForms returns how a secret may look in text and in files: itself, each long
// line and each telling field of it, and all of them in hex, in URLs, in JSON and in
// base64 at each of the three alignments. Nothing shorter than ShortestSecret is
// among them.
func SecretForms(secret string) []string {
	var forms []string
	for _, p := range secretParts(secret) {
		if len(p) < ShortestSecret {
			continue
		}
		quoted, _ := json.Marshal(p) // a string always encodes
		forms = append(forms, p, url.QueryEscape(p), url.PathEscape(p), hex.EncodeToString([]byte(p)),
			strings.Trim(string(quoted), `"`))
		for shift := range 3 {
			forms = append(forms, base64Forms(p, shift)...)
		}
	}
	forms = slices.DeleteFunc(forms, func(f string) bool { return len(f) < ShortestSecret })
	slices.Sort(forms)
	return slices.Compact(forms)
}

// secretParts returns the secret without blanks around it and what of it is a
// secret itself: the lines of a PEM key, the private key in a JSON document. A line
// with blanks in it is text that stands elsewhere, too.
func secretParts(secret string) []string {
	secret = strings.TrimSpace(secret)
	parts := []string{secret}
	fields := secretFields(secret)
	for _, text := range append(fields, secret) {
		if !strings.Contains(text, "\n") {
			continue
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if len(line) >= longLine && !strings.ContainsAny(line, " \t") && !strings.HasPrefix(line, "-----") {
				parts = append(parts, line)
			}
		}
	}
	return append(parts, fields...)
}

// tellingField are names under which JSON documents keep what is secret in them.
var tellingField = regexp.MustCompile(`(?i)(key|secret|token|password|credential)s?$`)

// secretFields returns the secret fields of a secret that is a JSON object.
func secretFields(secret string) []string {
	var object map[string]any
	if !strings.HasPrefix(secret, "{") || json.Unmarshal([]byte(secret), &object) != nil {
		return nil
	}
	var fields []string
	for name, value := range object {
		text, ok := value.(string)
		if text = strings.TrimSpace(text); ok && len(text) >= longLine && tellingField.MatchString(name) {
			fields = append(fields, text)
		}
	}
	return fields
}

// base64Forms returns the characters of the secret's base64 that do not depend
// on what stands before and after it, when shift bytes stand before it.
func base64Forms(secret string, shift int) []string {
	padded := append(make([]byte, shift), secret...)
	from := (shift*8 + 5) / 6
	to := len(padded) * 8 / 6
	if to-from < ShortestSecret {
		return nil
	}
	return []string{
		base64.RawStdEncoding.EncodeToString(padded)[from:to],
		base64.RawURLEncoding.EncodeToString(padded)[from:to],
	}
}
