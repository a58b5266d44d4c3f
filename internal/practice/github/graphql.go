package github

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// mutation finds the one field of a mutation: its name and, when the arguments
// are written into it, those.
var mutation = regexp.MustCompile(`(?s)\b(markPullRequestReadyForReview|convertPullRequestToDraft|resolveReviewThread|unresolveReviewThread)\s*\(\s*input\s*:\s*(\$\w+|\{[^}]*\})`)

// writtenID finds an id written into an input object.
var writtenID = regexp.MustCompile(`(?:pullRequestId|threadId)\s*:\s*(?:"([^"]+)"|(\$\w+))`)

// graphql answers the mutations that REST does not have. It is no GraphQL
// engine: it takes documents of one mutation, as a variable or written out.
func (s *Server) graphql(w http.ResponseWriter, r *http.Request) {
	s.answer(need{}, s.mutate)(w, r)
}

func (s *Server) mutate(c *call) (reply, error) {
	if c.who.kind != byUser && c.who.kind != byInstallation {
		return reply{}, refuse(http.StatusUnauthorized, "This endpoint requires you to be authenticated.")
	}
	var ask struct {
		Query     string
		Variables map[string]json.RawMessage
	}
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	m := mutation.FindStringSubmatch(ask.Query)
	if m == nil {
		return ok(problemJSON("", "undefinedField", "The practice GitHub only knows these mutations: markPullRequestReadyForReview, convertPullRequestToDraft, resolveReviewThread, unresolveReviewThread")), nil
	}
	id := mutationID(m[2], ask.Variables)
	var data object
	if strings.HasSuffix(m[1], "ReviewThread") {
		data = s.resolveThread(c, id, m[1] == "resolveReviewThread")
	} else {
		data = s.changeDraft(c, id, m[1] == "convertPullRequestToDraft")
	}
	if data == nil {
		return ok(problemJSON(m[1], "NOT_FOUND", fmt.Sprintf("Could not resolve to a node with the global id of '%s'", id))), nil
	}
	if data["forbidden"] != nil {
		return ok(problemJSON(m[1], "FORBIDDEN", "Resource not accessible by integration")), nil
	}
	return ok(object{"data": object{m[1]: data}}), nil
}

func problemJSON(field, kind, message string) object {
	data := any(nil)
	if field != "" {
		data = object{field: nil}
	}
	return object{"data": data, "errors": []object{{"type": kind, "path": []string{field}, "message": message}}}
}

// mutationID reads the node's id out of the input, wherever it is written.
func mutationID(input string, variables map[string]json.RawMessage) string {
	text := func(name string) (s string) {
		_ = json.Unmarshal(variables[strings.TrimPrefix(name, "$")], &s) // what is no text names nothing
		return s
	}
	if strings.HasPrefix(input, "$") {
		var in struct{ PullRequestID, ThreadID string }
		_ = json.Unmarshal(variables[input[1:]], &in)
		return in.PullRequestID + in.ThreadID
	}
	m := writtenID.FindStringSubmatch(input)
	if m == nil {
		return ""
	}
	if m[2] != "" {
		return text(m[2])
	}
	return m[1]
}

// changeDraft returns the payload; nil if the caller sees no such pull request.
func (s *Server) changeDraft(c *call, id string, draft bool) object {
	for _, p := range s.pulls.rows {
		r := s.repos.get(strings.ToLower(p.Repository))
		if pullNode(p) != id || !c.who.covers(r) {
			continue
		}
		if !c.who.may(r, "pull_requests", writing, writing) {
			return object{"forbidden": true}
		}
		s.setDraft(p, c.who.account, draft)
		return object{"pullRequest": object{"id": id, "number": p.Number, "isDraft": p.Draft, "url": s.pageURL("%s/pull/%d", p.Repository, p.Number)}}
	}
	return nil
}

// resolveThread takes PRRT_ and the number of the thread's first comment.
func (s *Server) resolveThread(c *call, id string, resolved bool) object {
	top := s.inline.get(strings.TrimPrefix(id, "PRRT_"))
	if top == nil || top.ReplyTo != 0 {
		return nil
	}
	r := s.repos.get(strings.ToLower(s.pulls.get(top.Pull).Repository))
	if !c.who.covers(r) {
		return nil
	}
	if !c.who.may(r, "pull_requests", writing, writing) {
		return object{"forbidden": true}
	}
	top.Resolved = resolved
	s.inline.put(idKey(top.ID), top)
	return object{"thread": object{"id": id, "isResolved": resolved}}
}
