package sessions

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"openinspect/sandbox"
)

// appendAll appends a boot's events in order, each with its effect. The
// actor's lease is held.
func (a *actor) appendAll(ctx context.Context, t *tx, events []sandbox.Event) error {
	var waiting []entry
	flush := func() error {
		_, err := t.append(ctx, a.session, waiting...)
		waiting = nil
		return err
	}
	for _, ev := range events {
		body, err := a.scrub.json(ev.Body)
		if err != nil {
			body = json.RawMessage(`{"text":"An event of the sandbox could not be read."}`)
			ev.Kind = sandbox.KindNote
		}
		ev.Prompt, ev.Kind = storable(ev.Prompt), storable(ev.Kind)
		waiting = append(waiting, entry{prompt: ev.Prompt, kind: ev.Kind, body: body, boot: a.boot, n: ev.N})
		if ev.Kind != sandbox.KindSettled && ev.Kind != sandbox.KindPhase && ev.Kind != sandbox.KindKept && ev.Kind != sandbox.KindPush {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if err := a.effect(ctx, t, ev, body); err != nil {
			return err
		}
	}
	return flush()
}

// effect does what an event means for the state machines.
func (a *actor) effect(ctx context.Context, t *tx, ev sandbox.Event, body json.RawMessage) error {
	s, err := t.lockSession(ctx, a.session)
	if err != nil {
		return err
	}
	if ev.Kind == sandbox.KindKept {
		return t.noteKept(ctx, s, storable(ev.Prompt), body)
	}
	if ev.Kind == sandbox.KindPush {
		return t.notePush(ctx, s, ev.Prompt, body)
	}
	if ev.Kind == sandbox.KindPhase {
		var phase sandbox.BodyPhase
		if err := json.Unmarshal(body, &phase); err != nil {
			return nil // it stays in the log, and the boot's deadline holds
		}
		return a.phase(ctx, t, s, phase)
	}
	var mine bool
	err = t.GetContext(ctx, &mine, `select exists (select from prompts where id = $1 and session_id = $2 and boot = $3)`,
		ev.Prompt, s.ID, a.boot)
	if err != nil || !mine {
		return err
	}
	var report sandbox.BodySettled
	if err := json.Unmarshal(body, &report); err != nil {
		report = sandbox.BodySettled{Outcome: sandbox.OutcomeFailed, Reason: "The sandbox's report of the end could not be read."}
	}
	if report.Outcome == sandbox.OutcomeCarried {
		if moved, err := a.carryOver(ctx, t, s, ev.Prompt, report); err != nil || moved {
			return err
		}
		_, err = t.settle(ctx, s, ev.Prompt, sandboxLost)
		return err
	}
	_, err = t.settle(ctx, s, ev.Prompt, endingOf(report))
	return err
}

// endingOf turns a supervisor's report into a prompt's end, which has a reason
// unless it completed (I3).
func endingOf(report sandbox.BodySettled) ending {
	how := ending{state: Failed, reason: strings.TrimSpace(report.Reason), retry: true, report: report}
	switch report.Outcome {
	case sandbox.OutcomeCompleted:
		how.state, how.retry = Completed, false
	case sandbox.OutcomeStopped:
		how.state, how.retry = Stopped, false
		if how.reason == "" {
			how.reason = "It was stopped."
		}
	default:
		if how.reason == "" {
			how.reason = "The agent failed without saying why."
		}
	}
	return how
}

// phase follows the boot.
func (a *actor) phase(ctx context.Context, t *tx, s Session, p sandbox.BodyPhase) error {
	switch {
	case p.State == "failed":
		return t.phaseFailed(ctx, s, phaseReason(p))
	case p.Phase == sandbox.PhaseReady && p.State == "done":
		res, err := t.ExecContext(ctx, `
			update sandboxes set state = 'ready', state_at = now(), phase = $2, failures = 0, reason = '', retry_at = null, without_image = false
			where session_id = $1 and state = 'booting'`, s.ID, p.Phase)
		if err != nil {
			return fmt.Errorf("noting that the sandbox of %s is ready: %w", s.ID, err)
		}
		if changed, err := affected(res); err != nil || !changed {
			return err
		}
		t.wakeSession(s.ID)
		_, err = t.append(ctx, s.ID, entry{kind: KindSandbox, body: BodySandbox{State: SandboxReady}})
		return err
	}
	// The agent starts beside the repository's phases, and is what people wait
	// for when those are done.
	next := p.Phase
	switch {
	case p.State == "done" && p.Phase == sandbox.PhaseAgent:
		return nil
	case p.State == "done":
		next = sandbox.PhaseAgent
	}
	_, err := t.ExecContext(ctx, `update sandboxes set phase = $2 where session_id = $1 and phase <> $2
		and state in ('starting', 'booting') and ($2 <> $4 or phase in ('', $3))`, s.ID, next, p.Phase, sandbox.PhaseAgent)
	return err
}

// phaseFailed ends a boot that cannot succeed. A box that is ready already, in
// which the agent reads before the repository is up to date, fails as well, and
// with it the prompt that runs.
func (t *tx) phaseFailed(ctx context.Context, s Session, reason string) error {
	var running []string
	err := t.SelectContext(ctx, &running, `select id from prompts where session_id = $1 and state = 'running'`, s.ID)
	if err != nil {
		return fmt.Errorf("reading what runs in %s: %w", s.ID, err)
	}
	for _, id := range running {
		if _, err := t.settle(ctx, s, id, ending{state: Failed, reason: reason, retry: true}); err != nil {
			return err
		}
	}
	return t.bootFailed(ctx, s, reason, SandboxStarting, SandboxBooting, SandboxReady)
}

// phaseReason says in a sentence what went wrong, with the end of what was printed.
func phaseReason(p sandbox.BodyPhase) string {
	what := map[string]string{
		sandbox.PhaseSync: "The repository could not be brought up to date", sandbox.PhaseSetup: "The repository's setup script failed",
		sandbox.PhaseStart: "The repository's start script failed", sandbox.PhaseAgent: "The agent could not be started",
		sandbox.PhaseReady: "The agent could not be started",
	}[p.Phase]
	if what == "" {
		what = "The sandbox could not be prepared"
	}
	if p.Detail != "" {
		what += ": " + strings.TrimRight(p.Detail, ".")
	}
	what += "."
	if tail := lastLines(p.Log); tail != "" {
		what += "\n" + tail
	}
	return what
}

// lastLines returns the end of a log that fits into an answer.
func lastLines(log string) string {
	const lines, bytes = 15, 1500
	log = strings.TrimSpace(log)
	if len(log) > bytes {
		log = strings.ToValidUTF8(log[len(log)-bytes:], "")
	}
	all := strings.Split(log, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// work delivers prompts, stops and parks, whenever something changed.
func (a *actor) work(ctx context.Context) error {
	poll := time.NewTicker(a.e.tempo.poll)
	defer poll.Stop()
	for {
		if err := a.step(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.wake:
		case <-poll.C:
		}
	}
}

// situation is what a step decides by.
type situation struct {
	State   SandboxState   `db:"state"`
	Running sql.NullString `db:"running"`
	Queued  bool           `db:"queued"` // or carried over, and without a boot
}

// step does what is to be done now.
func (a *actor) step(ctx context.Context) error {
	a.turn.Lock()
	now, err := a.look(ctx)
	if err == nil {
		err = a.act(ctx, now)
	}
	a.turn.Unlock()
	if err == nil && now.State == SandboxParking {
		return a.park(ctx)
	}
	return err
}

func (a *actor) look(ctx context.Context) (situation, error) {
	var now situation
	err := a.e.db.GetContext(ctx, &now, `
		select b.state,
			(select id from prompts p where p.session_id = b.session_id and p.state = 'running' and p.boot is not null) as running,
			exists (select from prompts p where p.session_id = b.session_id
				and (p.state = 'queued' or p.state = 'running' and p.boot is null)) as queued
		from sandboxes b where b.session_id = $1 and b.epoch = $2`, a.session, a.epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return now, errLeaseLost
	}
	if err != nil {
		return now, fmt.Errorf("reading the state of %s: %w", a.session, err)
	}
	return now, nil
}

// act stops, sends again, delivers, or has a quiet box looked through.
func (a *actor) act(ctx context.Context, now situation) error {
	if err := a.stopSettled(ctx, now.Running.String); err != nil {
		return err
	}
	switch {
	case now.State == SandboxLost || now.State == SandboxFailed || now.State == SandboxParked:
		return errLeaseLost
	case now.Running.Valid:
		return a.sendUnsent(ctx, now.Running.String)
	case now.Queued && now.State == SandboxReady && a.free():
		return a.deliver(ctx)
	case now.State == SandboxReady:
		return a.askVet(ctx)
	}
	return nil
}

// free says whether the boot has settled all that it was given (I2, I12).
func (a *actor) free() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.unsettled) == 0
}

// stopSettled tells the boot to stop what runs there but has been settled here,
// by a person or a deadline, and again until it confirms.
func (a *actor) stopSettled(ctx context.Context, running string) error {
	var stop []string
	a.mu.Lock()
	for id, asked := range a.unsettled {
		if id != running && time.Since(asked) >= a.e.tempo.stopAgain {
			a.unsettled[id] = time.Now()
			stop = append(stop, id)
		}
	}
	a.mu.Unlock()
	for _, id := range stop {
		a.parts.end(func(p RunningPart) bool { return p.Prompt == id })
		if err := a.link.Send(ctx, sandbox.Message{Stop: &sandbox.Stop{Prompt: id}}); err != nil {
			return err
		}
	}
	return nil
}

// deliver gives the first queued prompt to the boot: first in the table, then on
// the wire. If the wire breaks in between, hello shows that it did not arrive.
func (a *actor) deliver(ctx context.Context) error {
	var id string
	err := a.e.transact(ctx, func(t *tx) error {
		id = ""
		state, err := a.fence(ctx, t)
		if err != nil || state != SandboxReady {
			return err // it is being parked since we looked
		}
		if _, err := t.lockSession(ctx, a.session); err != nil {
			return err
		}
		if id, err = a.begin(ctx, t); err != nil || id == "" {
			return err
		}
		_, err = t.append(ctx, a.session, entry{prompt: id, kind: KindStarted, body: BodyStarted{Boot: a.boot}})
		return err
	})
	if err != nil || id == "" {
		return err
	}
	return a.send(ctx, id)
}

// begin makes the first queued prompt the boot's, or before all others the one that
// was carried over. The sandbox's row and the session's are locked. It returns "" if
// nothing is queued any more.
func (a *actor) begin(ctx context.Context, t *tx) (id string, err error) {
	err = t.GetContext(ctx, &id, `
		update prompts set state = 'running', boot = $2, started_at = coalesce(started_at, clock_timestamp())
		where (state = 'queued' or state = 'running' and boot is null) and id = (select id from prompts
			where session_id = $1 and (state = 'queued' or state = 'running' and boot is null) order by state desc, position limit 1)
		returning id`, a.session, a.boot)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil // withdrawn meanwhile
	}
	if err != nil {
		return "", fmt.Errorf("taking the next prompt of %s: %w", a.session, err)
	}
	return id, nil
}

// sendUnsent sends the running prompt if the boot never got it: hello showed that,
// or it began with its acceptance.
func (a *actor) sendUnsent(ctx context.Context, running string) error {
	if a.unsent != running {
		return nil
	}
	a.unsent = ""
	return a.send(ctx, running)
}

// send puts a prompt on the wire.
func (a *actor) send(ctx context.Context, id string) error {
	out, err := a.read(ctx, id)
	if err != nil {
		return fmt.Errorf("reading the prompt %s: %w", id, err)
	}
	a.mu.Lock()
	a.unsettled[id] = time.Time{}
	a.mu.Unlock()
	err = a.link.Send(ctx, sandbox.Message{Prompt: &out})
	if errors.Is(err, sandbox.ErrTooLarge) {
		return a.refuse(ctx, id)
	}
	return err
}

// read makes the message of a prompt.
func (a *actor) read(ctx context.Context, id string) (sandbox.Prompt, error) {
	var p struct {
		Text  string `db:"text"`
		Model string `db:"model"`
		Since string `db:"since"`
		Asked string `db:"asked"` // if text is not what was asked for
		Files bool   `db:"files"`
		Person
	}
	err := a.e.db.GetContext(ctx, &p, `
		select case when p.continuation = '' then p.text else p.continuation end as text, p.model, p.since,
			case when p.continuation = '' then '' else p.text end as asked,
			p.attachments <> '[]' and p.continuation = '' as files, a.name,
			coalesce(a.github_id, 0) as github_id, coalesce(a.github_login, '') as github_login
		from prompts p join people a on a.id = p.author where p.id = $1`, id)
	if err != nil {
		return sandbox.Prompt{}, notFound(err)
	}
	out := sandbox.Prompt{ID: id, Text: p.Text, AuthorName: p.Name, AuthorEmail: a.e.noreply(p.Person), Model: p.Model, Subject: p.Asked, Since: p.Since}
	if p.Files {
		err = a.e.db.SelectContext(ctx, &out.Attachments, `select name, mime, data from attachments where prompt_id = $1 order by position`, id)
	}
	return out, err
}

// refuse fails a prompt that can never pass the bridge.
func (a *actor) refuse(ctx context.Context, id string) error {
	a.mu.Lock()
	delete(a.unsettled, id)
	a.mu.Unlock()
	return a.e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, a.session)
		if err != nil {
			return err
		}
		_, err = t.settle(ctx, s, id, ending{state: Failed, reason: "The request with its attachments is too large for the sandbox: attach less."})
		return err
	})
}

// noreply is the address under which a person's commits appear as theirs on
// GitHub (docs.github.com, "Email addresses reference"), also while their
// connection does not work; the bot's for a person whose account is not known.
func (e *Engine) noreply(p Person) string {
	if p.GitHubID == 0 {
		return e.cfg.BotEmail
	}
	return fmt.Sprintf("%d+%s@users.noreply.github.com", p.GitHubID, p.GitHubLogin)
}
