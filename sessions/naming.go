package sessions

import (
	"regexp"
	"slices"
	"strings"
)

// A repository may be named in a text as owner/name, as a URL of the code host,
// or by its name alone where that is unique. Much else looks like owner/name
// (src/main.go, and/or), so an unknown one counts as named only if it is in a
// URL, belongs to an owner that we know, or stands where a repository is named.
var (
	fullName = regexp.MustCompile(`(https?://[\w.:-]+/)?\b([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9._-]+)`)
	bareName = regexp.MustCompile(`[A-Za-z0-9._-]+`)
	saysRepo = regexp.MustCompile(`(?i)\b(?:repo|repository)[\s:]+["'` + "`" + `*_<]*$`)
)

// namedRepositories returns the known repositories that a text names, and the
// first unknown one.
func namedRepositories(text string, all []Repository) (found []Repository, unknown string) {
	add := func(r Repository) {
		if !slices.Contains(found, r) {
			found = append(found, r)
		}
	}
	for _, m := range fullName.FindAllStringSubmatchIndex(text, -1) {
		owner := text[m[4]:m[5]]
		name := strings.TrimSuffix(strings.TrimRight(text[m[6]:m[7]], "."), ".git")
		full := owner + "/" + name
		repo, known := findRepository(all, full)
		switch {
		case known:
			add(repo)
		case unknown == "" && name != "" && (isHostURL(text, m) || knownOwner(all, owner) || saysRepo.MatchString(text[:m[0]])):
			unknown = full
		}
	}
	if len(found) > 0 || unknown != "" {
		return found, unknown
	}
	for _, word := range bareName.FindAllString(text, -1) {
		matches := reposCalled(all, strings.Trim(word, "._-"))
		for _, r := range matches {
			add(r)
		}
	}
	return found, ""
}

// isHostURL says whether the match is a URL of a page that belongs to a
// repository on GitHub; other hosts' paths mean something else.
func isHostURL(text string, m []int) bool {
	if m[2] < 0 {
		return false
	}
	host := strings.TrimSuffix(text[m[2]:m[3]], "/")
	_, host, _ = strings.Cut(host, "://")
	return strings.EqualFold(host, "github.com") || strings.EqualFold(host, "www.github.com")
}

func knownOwner(all []Repository, owner string) bool {
	return slices.ContainsFunc(all, func(r Repository) bool {
		o, _, _ := strings.Cut(r.Name, "/")
		return strings.EqualFold(o, owner)
	})
}

// reposCalled returns the repositories of a bare name.
func reposCalled(all []Repository, name string) []Repository {
	const shortest = 3
	if len(name) < shortest {
		return nil
	}
	var found []Repository
	for _, r := range all {
		_, bare, _ := strings.Cut(r.Name, "/")
		if strings.EqualFold(bare, name) {
			found = append(found, r)
		}
	}
	return found
}

// closeNames returns up to three repositories whose names are nearly the given
// one: the same bare name, or few letters changed.
func closeNames(name string, all []Repository) []string {
	type candidate struct {
		name     string
		distance int
	}
	_, bare, _ := strings.Cut(strings.ToLower(name), "/")
	var near []candidate
	for _, r := range all {
		full := strings.ToLower(r.Name)
		_, theirs, _ := strings.Cut(full, "/")
		d := min(editDistance(strings.ToLower(name), full), editDistance(bare, theirs))
		if d <= max(1, len(bare)/3) {
			near = append(near, candidate{r.Name, d})
		}
	}
	slices.SortStableFunc(near, func(a, b candidate) int { return a.distance - b.distance })
	var names []string
	for _, c := range near[:min(len(near), 3)] {
		names = append(names, c.name)
	}
	return names
}

// editDistance is how many letters have to be changed, added or removed.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
