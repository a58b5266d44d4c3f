package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/lib/pq"
)

// Why a repository was taken; each is a sentence's end.
const (
	whyAsked   = "asked for"
	whyNamed   = "named in the message"
	whyChannel = "this channel's repository"
	whyOnly    = "the only one"
)

// resolveRepository works out which repository the session works on, or says
// who has to choose. begun says that the session is new; one that still waits
// for a choice only listens to what is named.
func (t *tx) resolveRepository(ctx context.Context, s Session, p Prompt, r Request, begun bool) error {
	all, err := activeRepositories(ctx, t)
	if err != nil {
		return err
	}
	if r.Repository != "" {
		repo, ok := findRepository(all, r.Repository)
		if !ok {
			return unknownRepository(r.Repository, all)
		}
		return t.setRepository(ctx, s, repo, whyAsked, "")
	}
	found, unknown := namedRepositories(r.Text, all)
	switch {
	case len(found) == 1:
		return t.setRepository(ctx, s, found[0], whyNamed, "")
	case !begun:
		return nil
	case len(found) == 0 && unknown != "":
		return unknownRepository(unknown, all)
	case len(all) == 0:
		return &Problem{Code: "no_repository", Text: "I have no repository to work on yet: an administrator has to install the GitHub App on one."}
	}
	if len(found) == 0 {
		repo, ok, err := t.channelRepository(ctx, s, all)
		if err != nil {
			return err
		}
		if ok {
			return t.setRepository(ctx, s, repo, whyChannel, "")
		}
		if len(all) == 1 {
			return t.setRepository(ctx, s, all[0], whyOnly, "")
		}
	}
	return t.askForRepository(ctx, s, p, orderForMenu(found, all))
}

// channelRepository is the one that people chose for the channel before.
func (t *tx) channelRepository(ctx context.Context, s Session, all []Repository) (Repository, bool, error) {
	if s.Channel == "" {
		return Repository{}, false, nil
	}
	var name string
	err := t.GetContext(ctx, &name, `select repository from channel_repositories where team = $1 and channel = $2`, s.Team, s.Channel)
	if errors.Is(err, sql.ErrNoRows) {
		return Repository{}, false, nil
	}
	if err != nil {
		return Repository{}, false, fmt.Errorf("reading the channel's repository: %w", err)
	}
	repo, ok := findRepository(all, name)
	return repo, ok, nil
}

// askForRepository has the small model choose, or a person if there is none.
func (t *tx) askForRepository(ctx context.Context, s Session, p Prompt, from []string) error {
	if t.e.cfg.Chooser == nil {
		return t.askPeople(ctx, s, p.ID, from)
	}
	_, err := t.ExecContext(ctx, `update sessions set choice = 'model', choice_from = $2, choice_at = now() where id = $1`,
		s.ID, pq.Array(from))
	return err
}

// longestMenu is how many repositories a menu offers: Slack's own limit for a
// static select is 100 options.
const longestMenu = 100

// askPeople puts the question into the log and, if there is a thread, a menu into it.
func (t *tx) askPeople(ctx context.Context, s Session, prompt string, from []string) error {
	_, err := t.ExecContext(ctx, `update sessions set choice = 'people', choice_from = $2 where id = $1`, s.ID, pq.Array(from))
	if err != nil {
		return err
	}
	question := BodyWaiting{For: "repository", Text: "Which repository is this about?", Menu: from[:min(len(from), longestMenu)]}
	if s.ThreadTS != "" {
		err := t.enqueue(ctx, outboxRow{surface: surfaceSlack, kind: DeliverMenu, key: "menu:" + s.ID,
			session: s.ID, prompt: prompt, priority: priorityMenu, body: question})
		if err != nil {
			return err
		}
	}
	_, err = t.append(ctx, s.ID, entry{prompt: prompt, kind: KindWaiting, body: question})
	return err
}

// setRepository settles what the session works on. by is the person who chose, if one did.
func (t *tx) setRepository(ctx context.Context, s Session, repo Repository, why, by string) error {
	_, err := t.ExecContext(ctx, `
		update sessions set repository = $2, repository_why = $3, base_branch = $4, choice = '', choice_from = '{}'
		where id = $1`, s.ID, repo.Name, why, repo.DefaultBranch)
	if err != nil {
		return fmt.Errorf("setting the repository of %s: %w", s.ID, err)
	}
	// A menu that people see gives way to the answer; one that nobody has seen yet
	// is not needed any more. Posting it shows position 0: an answer that comes while it
	// is posted is past that.
	_, err = t.ExecContext(ctx, `
		update outbox set state = case when unknown or remote ? 'ts' then 'pending' else 'done' end, done_at = now(),
			wanted = greatest(cursor, 0) + 1, next_at = now(), attempts = 0, body = body || jsonb_build_object('by', $2::text)
		where key = $1 and state in ('pending', 'done')`, "menu:"+s.ID, by)
	if err != nil {
		return fmt.Errorf("answering the menu of %s: %w", s.ID, err)
	}
	t.wakeSurface(surfaceSlack)
	t.wakeSession(s.ID)
	_, err = t.append(ctx, s.ID, entry{kind: KindRepository, body: BodyRepository{Repository: repo.Name, Why: why, By: by}})
	return err
}

// ChooseRepository settles which repository a session works on. It is refused
// with a *Problem once a sandbox was started for another. The choice is
// remembered for the session's channel.
func (e *Engine) ChooseRepository(ctx context.Context, key, session, repository string, by uuid.UUID) error {
	return e.transact(ctx, func(t *tx) error {
		if fresh, err := t.once(ctx, key); err != nil || !fresh {
			return err
		}
		started, err := t.sandboxStarted(ctx, session)
		if err != nil {
			return err
		}
		s, err := t.lockSession(ctx, session)
		if err != nil {
			return err
		}
		all, err := activeRepositories(ctx, t)
		if err != nil {
			return err
		}
		repo, ok := findRepository(all, repository)
		switch {
		case !ok:
			return unknownRepository(repository, all)
		case s.Repository == repo.Name:
			return nil
		case s.Repository != "" && started:
			return &Problem{Code: "repository_settled", Text: "This session works on " + s.Repository +
				" already. Begin a new one for " + repo.Name + "."}
		}
		person, err := readPerson(ctx, t, by)
		if err != nil {
			return err
		}
		if err := t.setRepository(ctx, s, repo, "chosen by "+person.Name, person.Name); err != nil {
			return err
		}
		return t.rememberForChannel(ctx, s, repo.Name)
	})
}

// sandboxStarted locks the session's sandbox and says whether one was ever started.
func (t *tx) sandboxStarted(ctx context.Context, session string) (bool, error) {
	var epoch int64
	err := t.GetContext(ctx, &epoch, `select epoch from sandboxes where session_id = $1 for no key update`, session)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return epoch > 0, err
}

func (t *tx) rememberForChannel(ctx context.Context, s Session, repository string) error {
	if s.Channel == "" {
		return nil
	}
	_, err := t.ExecContext(ctx, `
		insert into channel_repositories (team, channel, repository) values ($1, $2, $3)
		on conflict (team, channel) do update set repository = excluded.repository`, s.Team, s.Channel, repository)
	if err != nil {
		return fmt.Errorf("remembering the channel's repository: %w", err)
	}
	return nil
}

// findRepository finds a full name, whatever its case.
func findRepository(all []Repository, name string) (Repository, bool) {
	i := slices.IndexFunc(all, func(r Repository) bool { return strings.EqualFold(r.Name, name) })
	if i < 0 {
		return Repository{}, false
	}
	return all[i], true
}

func unknownRepository(name string, all []Repository) error {
	text := "There is no repository " + name + " that I may work on."
	if near := closeNames(name, all); len(near) > 0 {
		text += " Did you mean " + strings.Join(near, " or ") + "?"
	} else if len(all) > 0 {
		var names []string
		for _, r := range all[:min(len(all), 5)] {
			names = append(names, r.Name)
		}
		text += " I know " + strings.Join(names, ", ")
		if len(all) > len(names) {
			text += fmt.Sprintf(" and %d more", len(all)-len(names))
		}
		text += "."
	}
	return &Problem{Code: "no_repository", Text: text + " If it is missing, the GitHub App has to be installed on it."}
}

// orderForMenu lists the names with those that were found first.
func orderForMenu(found, all []Repository) []string {
	var names []string
	for _, r := range append(slices.Clone(found), all...) {
		if !slices.Contains(names, r.Name) {
			names = append(names, r.Name)
		}
	}
	return names
}
