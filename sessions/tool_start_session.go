package sessions

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// startSession begins a child session for the person who asked the call's agent,
// or gives one that it began something more to do.
func startSession(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error) {
	var asked struct {
		Repository string `json:"repository"`
		Task       string `json:"task"`
		Title      string `json:"title"`
		Session    string `json:"session"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return wrong, "", nil
	}
	r := Request{Source: FromAgent, Author: c.author.ID, Text: storable(strings.TrimSpace(asked.Task)), Session: asked.Session}
	if problem := (*Problem)(nil); errors.As(t.e.checkRequest(r), &problem) {
		return refusal(problem.Text), "", nil
	}
	if asked.Session != "" {
		return t.continueChild(ctx, c, r)
	}
	all, err := activeRepositories(ctx, t)
	if err != nil {
		return nil, "", err
	}
	repo, known := findRepository(all, asked.Repository)
	if !known || asked.Repository == "" {
		return refusal(fmt.Sprintf("There is no repository %q here. These there are: %s.", asked.Repository, nameSome(all))), "", nil
	}
	kin, err := t.lockLineage(ctx, c.session.ID)
	if err != nil {
		return nil, "", err
	}
	if wrong := kin.refusal(); wrong != nil {
		return wrong, "", nil
	}
	r.Repository, r.parent = repo.Name, &parentage{c.session.ID, c.prompt, kin.Root, kin.Depth + 1, asked.Title}
	acc, err := t.accept(ctx, r)
	if err != nil {
		return nil, "", err
	}
	if err := t.tellChild(ctx, c, acc); err != nil {
		return nil, "", err
	}
	return &toolResult{text: fmt.Sprintf("Session %s works on %s now: %s\nIts answer comes to you as a request when it is done. "+
		"Go on with what does not depend on it, then end your turn; or wait with get_session.", acc.Session.ID, repo.Name, t.e.pageURL(acc.Session.ID))}, "", nil
}

// refusal says that there may be no further child.
func (l lineage) refusal() *toolResult {
	switch {
	case l.Depth >= deepestChild:
		return refusal("This session was begun by a session that was begun by another: it cannot begin more. Do the work here.")
	case l.Total >= childrenInAll:
		return refusal(fmt.Sprintf("%d sessions were begun for this work, which is the most. Do the rest here.", l.Total))
	case l.Alive >= childrenAlive:
		return l.tooMany()
	}
	return nil
}

func (l lineage) tooMany() *toolResult {
	return refusal(fmt.Sprintf("%d sessions work at once, which is the most. Wait for one with get_session, then try again.", l.Alive))
}

// continueChild gives a child of the call's session another task.
func (t *tx) continueChild(ctx context.Context, c toolCall, r Request) (*toolResult, string, error) {
	var mine bool
	err := t.GetContext(ctx, &mine, `select exists (select from sessions where id = $1 and parent = $2)`, r.Session, c.session.ID)
	if err != nil {
		return nil, "", fmt.Errorf("looking for a child of %s: %w", c.session.ID, err)
	}
	if !mine {
		return refusal("You began no session " + r.Session + ": only those that you began can be given more to do."), "", nil
	}
	child, err := t.lockSession(ctx, r.Session)
	if err != nil {
		return nil, "", err
	}
	var open int
	err = t.GetContext(ctx, &open, `select count(*) from prompts where session_id = $1 and state in ('queued', 'running')`, child.ID)
	if err != nil {
		return nil, "", fmt.Errorf("reading the queue of %s: %w", child.ID, err)
	}
	if child.State == "archived" || open >= t.e.cfg.MaxQueue {
		return refusal("That session takes nothing more at the moment."), "", nil
	}
	if open == 0 { // it works again
		kin, err := t.lockLineage(ctx, c.session.ID)
		if err != nil {
			return nil, "", err
		}
		if kin.Alive >= childrenAlive {
			return kin.tooMany(), "", nil
		}
	}
	acc, err := t.accept(ctx, r)
	if err != nil {
		return nil, "", err
	}
	return &toolResult{text: "Session " + child.ID + " has it. Its answer comes to you as a request when it is done."}, "", t.tellChild(ctx, c, acc)
}

// tellChild notes in the parent's log that a child has something to do.
func (t *tx) tellChild(ctx context.Context, c toolCall, acc Accepted) error {
	_, err := t.append(ctx, c.session.ID, entry{prompt: c.prompt, kind: KindChild, body: BodyChild{Session: acc.Session.ID,
		Repository: acc.Session.Repository, Title: acc.Session.Title, URL: t.e.pageURL(acc.Session.ID), State: acc.Prompt.State}})
	return err
}

// nameSome lists the first repositories.
func nameSome(all []Repository) string {
	const most = 30
	var names []string
	for _, r := range all[:min(len(all), most)] {
		names = append(names, r.Name)
	}
	if len(all) > most {
		names = append(names, fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(names, ", ")
}

// parentage is of a session that an agent begins.
type parentage struct {
	session, prompt, root string
	depth                 int
	title                 string // empty: from what it is to do
}

// adopt notes whose child a session is.
func (t *tx) adopt(ctx context.Context, s *Session, p parentage) error {
	if to := title(p.title); to != "" {
		s.Title = to
	}
	_, err := t.ExecContext(ctx, `update sessions set parent = $2, parent_prompt = $3, root = $4, depth = $5, title = $6 where id = $1`,
		s.ID, p.session, p.prompt, p.root, p.depth, s.Title)
	if err != nil {
		return fmt.Errorf("noting the parent of %s: %w", s.ID, err)
	}
	return nil
}
