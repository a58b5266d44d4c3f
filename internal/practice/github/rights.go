package github

import (
	"encoding/json"
	"slices"
)

// level is how much somebody may do with something; each includes the lower ones.
type level int

const (
	nothing level = iota
	reading
	writing
	administering
)

var levelNames = []string{"none", "read", "write", "admin"}

func (l level) String() string { return levelNames[l] }

// MarshalJSON writes the name.
func (l level) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// UnmarshalJSON reads the name; a name it does not know is nothing.
func (l *level) UnmarshalJSON(data []byte) error {
	var name string
	err := json.Unmarshal(data, &name)
	*l = parseLevel(name)
	return err
}

func parseLevel(name string) level { return level(max(0, slices.Index(levelNames, name))) }

// permission is what an installation token may do, by the API's names.
type permission map[string]level

// appPermissions are the App's own; no token of it goes beyond them.
var appPermissions = permission{
	"metadata": reading, "contents": writing, "pull_requests": writing, "issues": writing,
	"checks": writing, "statuses": writing, "actions": reading,
}

// callerKind says by what credential a caller is known.
type callerKind int

const (
	anonymous callerKind = iota
	byJWT
	byInstallation
	byUser
)

// caller is who makes a request.
type caller struct {
	kind    callerKind
	account *account // of a user, or the bot for the App and its installation
	token   *token
}

// name is how the record of calls names the caller.
func (c caller) name() string {
	switch c.kind {
	case byJWT:
		return "app"
	case byInstallation:
		return "installation"
	case byUser:
		return c.account.Login
	}
	return "anonymous"
}

// covers says whether the caller can see that the repository exists.
func (c caller) covers(r *repository) bool {
	switch c.kind {
	case byInstallation:
		return slices.Contains(c.token.Repositories, r.ID)
	case byUser:
		return !r.Private || r.Roles[c.account.Login] >= reading
	}
	return !r.Private
}

// may says whether the caller has a right in a repository that it covers. A
// user's token reaches what both the App and the user may do; role is what the
// user needs to be, which for talking is less than for the App.
func (c caller) may(r *repository, name string, want, role level) bool {
	switch c.kind {
	case byInstallation:
		return name == "metadata" || c.token.Permissions[name] >= want
	case byUser:
		return appPermissions[name] >= want && max(r.Roles[c.account.Login], publicRole(r)) >= role
	}
	return want == reading && !r.Private
}

func publicRole(r *repository) level {
	if r.Private {
		return nothing
	}
	return reading
}
