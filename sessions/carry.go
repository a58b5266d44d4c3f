package sessions

import (
	"context"
	"fmt"

	"openinspect/sandbox"
)

// A request whose box ends as planned, because its longest lifetime is over or
// because nothing shall be left running without a control plane, is carried over:
// it stays the one running request of its session, without a boot, until the next
// box is ready.
//
//	running in boot A ──> running in none ──> running in boot B
//	running in none   ──> failed | stopped
//
// The first edge follows the word of boot A that it has stopped, in the transaction
// that stores it; so nothing runs twice, and I5 holds: of a boot that ends without
// that word the request fails. The second is the beginning of any prompt. Boot B is
// told to go on, in words that the log holds; if A had not begun, it gets the
// request as it is.

// carryOver takes a prompt from the boot that stopped it. moved is false if the
// boot's box does not end as planned. The sandbox's row and the session's are locked.
func (a *actor) carryOver(ctx context.Context, t *tx, s Session, prompt string, report sandbox.BodySettled) (moved bool, err error) {
	p, err := readPrompt(ctx, t, prompt)
	if err != nil {
		return false, err
	}
	text := ""
	if report.Begun {
		text = "The sandbox in which you worked on this request had to end. This is a new one: files, commits and " +
			"this conversation are as you left them, but no process that you started runs any more. Look at what is done, and go on " +
			"where you stopped; do not begin again. The request was:\n\n" + p.Text
	}
	res, err := t.ExecContext(ctx, `
		update prompts set boot = null, since = $4, continuation = case when $3 = '' then continuation else $3 end
		where id = $1 and state = 'running' and boot = $2
			and exists (select from sandboxes b where b.session_id = prompts.session_id and b.state = 'parking' and b.carry)`,
		prompt, a.boot, text, storable(report.Since))
	if err != nil {
		return false, fmt.Errorf("carrying prompt %s over: %w", prompt, err)
	}
	if moved, err = affected(res); err != nil || !moved {
		return false, err
	}
	if _, err := t.ExecContext(ctx, `delete from running_parts where session_id = $1 and prompt_id = $2`, s.ID, prompt); err != nil {
		return false, fmt.Errorf("ending the running parts of prompt %s: %w", prompt, err)
	}
	_, err = t.append(ctx, s.ID, entry{prompt: prompt, kind: KindCarried, body: BodyCarried{Boot: a.boot, Text: text}})
	return true, err
}
