package sessions

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// Archive puts a session away: its sandbox is parked at once, and what is saved of
// it is deleted after Config.DeleteAfter. A request takes it out again. While
// something is open in it, a *Problem says so.
func (e *Engine) Archive(ctx context.Context, key, session string, by uuid.UUID) error {
	return e.setArchived(ctx, key, session, by, "archived")
}

// Unarchive takes a session out again.
func (e *Engine) Unarchive(ctx context.Context, key, session string, by uuid.UUID) error {
	return e.setArchived(ctx, key, session, by, "open")
}

func (e *Engine) setArchived(ctx context.Context, key, session string, by uuid.UUID, to string) error {
	err := e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, session)
		if err != nil {
			return err
		}
		if fresh, err := t.once(ctx, key); err != nil || !fresh {
			return err
		}
		person, err := readPerson(ctx, t, by)
		if err != nil {
			return err
		}
		var open bool
		err = t.GetContext(ctx, &open, `select exists (select from prompts where session_id = $1 and state in ('queued', 'running'))`, s.ID)
		if err != nil {
			return fmt.Errorf("reading what is open in %s: %w", s.ID, err)
		}
		if open && to == "archived" {
			return &Problem{Code: "open", Text: "Something is still to be done in that session: stop or cancel it first."}
		}
		return t.moveSession(ctx, s, to, person.Name)
	})
	if err != nil {
		return fmt.Errorf("making session %s %s: %w", session, to, err)
	}
	return nil
}

// moveSession archives a session or opens it again, if it is not so already. The
// session's row is locked.
func (t *tx) moveSession(ctx context.Context, s Session, to, by string) error {
	res, err := t.ExecContext(ctx, `update sessions set state = $2, archived_at = case when $2 = 'archived' then now() end
		where id = $1 and state <> $2`, s.ID, to)
	if err != nil {
		return fmt.Errorf("making session %s %s: %w", s.ID, to, err)
	}
	if moved, err := affected(res); err != nil || !moved {
		return err
	}
	t.wakeSession(s.ID)
	_, err = t.append(ctx, s.ID, entry{kind: KindArchived, body: BodyArchived{State: to, By: by}})
	return err
}

// reopen takes an archived session out again, because its author asks for something
// in it. What it had saved may be deleted by now; its branch is not.
func (t *tx) reopen(ctx context.Context, s *Session, author uuid.UUID) error {
	if s.State != "archived" {
		return nil
	}
	person, err := readPerson(ctx, t, author)
	if err != nil {
		return err
	}
	if err := t.moveSession(ctx, *s, "open", person.Name); err != nil {
		return err
	}
	s.State = "open"
	return nil
}

// archiveIdle archives the sessions in which nothing has happened for long.
func (e *Engine) archiveIdle(ctx context.Context) error {
	if e.cfg.ArchiveAfter < 0 {
		return nil
	}
	const idle = `s.state = 'open' and s.updated_at < now() - make_interval(secs => $1)
		and not exists (select from prompts p where p.session_id = s.id and p.state in ('queued', 'running'))`
	var old []string
	err := e.db.SelectContext(ctx, &old, `select s.id from sessions s where `+idle+` order by s.updated_at limit 50`, seconds(e.cfg.ArchiveAfter))
	if err != nil {
		return fmt.Errorf("looking for sessions to archive: %w", err)
	}
	return each(old, func(id string) error {
		return e.transact(ctx, func(t *tx) error {
			s, err := t.lockSession(ctx, id)
			if err != nil {
				return err
			}
			var still bool
			if err := t.GetContext(ctx, &still, `select exists (select from sessions s where s.id = $2 and `+idle+`)`,
				seconds(e.cfg.ArchiveAfter), id); err != nil || !still {
				return err
			}
			return t.moveSession(ctx, s, "archived", "")
		})
	})
}

// emptyArchive lets go of what is saved of sessions that were archived long enough
// ago. Their branches stay.
func (e *Engine) emptyArchive(ctx context.Context) error {
	_, err := e.db.ExecContext(ctx, `
		with let_go as (update sandboxes b set ref = '' from sessions s
			where s.id = b.session_id and s.state = 'archived' and s.archived_at < now() - make_interval(secs => $1)
				and b.ref <> '' and b.box = '' and b.state in ('parked', 'lost', 'failed')
			returning b.session_id)
		update saved v set state = 'unwanted' from let_go l where v.session_id = l.session_id and v.state = 'kept'`, seconds(e.cfg.DeleteAfter))
	if err != nil {
		return fmt.Errorf("letting go of what archived sessions keep: %w", err)
	}
	return nil
}
