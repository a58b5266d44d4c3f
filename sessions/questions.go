package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// A question is asked by a prompt, which ends with it. Whatever a person asks for
// next in the session is the answer: a pressed option, a reply in the thread, a
// request on the page. The first one counts; later ones are requests like any
// other. A session has one open question at most: a newer one takes its place.

// Kinds of a question's events; both belong to the prompt that asked.
const (
	KindQuestion = "question"          // BodyQuestion; again if the answer was withdrawn
	KindAnswered = "question.answered" // BodyAnswered
)

// BodyQuestion is what the agent wants to know.
type BodyQuestion struct {
	Text    string   `json:"text"` // Markdown
	Options []string `json:"options"`
}

// BodyAnswered is how it was answered. By is empty if nobody did and a newer
// question took its place, or the work was stopped.
type BodyAnswered struct {
	BodyQuestion
	By     string `json:"by,omitempty"`
	Answer string `json:"answer,omitempty"`
}

// DeliverQuestion is the outbox row of a question: a message with a button for
// each option, edited once when it is answered. It follows its prompt's answer.
const DeliverQuestion = "question"

// Question is one that the agent asked.
type Question struct {
	Prompt     string         `db:"prompt_id"` // that asked
	Session    string         `db:"session_id"`
	Text       string         `db:"text"`
	Options    pq.StringArray `db:"options"`
	Answer     string         `db:"answer"`
	AnsweredBy uuid.NullUUID  `db:"answered_by"`
	By         string         `db:"by_name"` // joined from people
	AskedAt    time.Time      `db:"asked_at"`
	AnsweredAt *time.Time     `db:"answered_at"`
}

// Open says whether it can still be answered.
func (q Question) Open() bool { return q.AnsweredAt == nil }

func (q Question) body() BodyQuestion { return BodyQuestion{Text: q.Text, Options: q.Options} }

const questionColumns = `q.prompt_id, q.session_id, q.text, q.options, q.answer, q.answered_by, coalesce(a.name, '') as by_name,
	q.asked_at, q.answered_at`

func readQuestion(ctx context.Context, from sqlx.QueryerContext, where string, args ...any) (Question, error) {
	var q Question
	err := sqlx.GetContext(ctx, from, &q, `select `+questionColumns+` from questions q left join people a on a.id = q.answered_by where `+where, args...)
	if err != nil {
		return q, fmt.Errorf("reading a question: %w", notFound(err))
	}
	return q, nil
}

// Question reads what a prompt asked, or returns ErrNotFound.
func (e *Engine) Question(ctx context.Context, prompt string) (Question, error) {
	return readQuestion(ctx, e.db, `q.prompt_id = $1`, prompt)
}

// OpenQuestion reads the question that waits for an answer, or returns ErrNotFound.
func (e *Engine) OpenQuestion(ctx context.Context, session string) (Question, error) {
	return readQuestion(ctx, e.db, `q.session_id = $1 and q.answered_at is null`, session)
}

// AnswerQuestion chooses an option (counted from 0) of the question that a prompt
// asked: the option's text is a request of that person. A *Problem says if
// somebody was faster.
func (e *Engine) AnswerQuestion(ctx context.Context, key, prompt string, option int, source Source, by uuid.UUID) (Accepted, error) {
	var acc Accepted
	err := e.transact(ctx, func(t *tx) (err error) {
		acc = Accepted{}
		s, _, err := t.lockPrompt(ctx, prompt)
		if err != nil {
			return err
		}
		fresh, err := t.once(ctx, key)
		if err != nil {
			return err
		}
		if !fresh {
			acc, err = t.acceptedBefore(ctx, key)
			return err
		}
		q, err := readQuestion(ctx, t, `q.prompt_id = $1`, prompt)
		if err != nil {
			return err
		}
		if err := q.answerable(option); err != nil {
			return err
		}
		acc, err = t.accept(ctx, Request{Source: source, Author: by, Session: s.ID, Text: q.Options[option]})
		if err != nil {
			return err
		}
		return t.became(ctx, key, s.ID, acc.Prompt.ID)
	})
	if err != nil {
		return Accepted{}, fmt.Errorf("answering the question of %s: %w", prompt, err)
	}
	return acc, nil
}

// answerable refuses what cannot be chosen (any more).
func (q Question) answerable(option int) error {
	switch {
	case q.Open() && option >= 0 && option < len(q.Options):
		return nil
	case q.Open():
		return &Problem{Code: "no_option", Text: "The question has no such option: choose another one, or reply in your own words."}
	case q.By != "":
		return &Problem{Code: "answered", Text: q.By + " has answered that already: “" + shorten(q.Answer, 100) + "”. Reply to say something else."}
	}
	return &Problem{Code: "answered", Text: "That question is not open any more. Reply to say something."}
}

// answered notes that a request is the answer to the session's open question, if
// it has one. The session's row is locked.
func (t *tx) answered(ctx context.Context, s Session, p Prompt, text string) error {
	q, err := t.closeQuestion(ctx, s, `answer = $2, answered_by = $3, answer_prompt = $4`, text, p.Author, p.ID)
	if err != nil || q == nil {
		return err
	}
	return t.tellQuestion(ctx, s, q.Prompt, KindAnswered, BodyAnswered{q.body(), p.AuthorName, shorten(text, 300)})
}

// dropQuestion closes the session's open question without an answer.
func (t *tx) dropQuestion(ctx context.Context, s Session) error {
	q, err := t.closeQuestion(ctx, s, `answer = ''`)
	if err != nil || q == nil {
		return err
	}
	return t.tellQuestion(ctx, s, q.Prompt, KindAnswered, BodyAnswered{BodyQuestion: q.body()})
}

// closeQuestion closes the open question, or returns nil if there is none.
func (t *tx) closeQuestion(ctx context.Context, s Session, set string, args ...any) (*Question, error) {
	var q Question
	err := t.GetContext(ctx, &q, `update questions set answered_at = now(), `+set+` where session_id = $1 and answered_at is null
		returning prompt_id, text, options`, append([]any{s.ID}, args...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("closing the question of %s: %w", s.ID, err)
	}
	return &q, nil
}

// reopenQuestion opens the question again whose answer was withdrawn before it ran.
func (t *tx) reopenQuestion(ctx context.Context, s Session, answer string) error {
	var q Question
	err := t.GetContext(ctx, &q, `update questions q set answered_at = null, answered_by = null, answer = '', answer_prompt = null
		where answer_prompt = $1 and not exists (select from questions o where o.session_id = q.session_id and o.answered_at is null)
		returning prompt_id, text, options`, answer)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening a question of %s again: %w", s.ID, err)
	}
	return t.tellQuestion(ctx, s, q.Prompt, KindQuestion, q.body())
}

// tellQuestion appends a question's event, and has its message shown anew.
func (t *tx) tellQuestion(ctx context.Context, s Session, prompt, kind string, body any) error {
	events, err := t.append(ctx, s.ID, entry{prompt: prompt, kind: kind, body: body})
	if err != nil {
		return err
	}
	_, err = t.ExecContext(ctx, `update outbox set wanted = $2, state = 'pending', next_at = now() where key = $1 and state <> 'dead'`,
		questionKey(prompt), events[0].Seq)
	if err != nil {
		return fmt.Errorf("showing the question of %s: %w", s.ID, err)
	}
	t.wakeSurface(surfaceSlack)
	return nil
}

func questionKey(prompt string) string { return "question:" + prompt }

// deliverQuestion has a question posted in the thread once its prompt has ended,
// and reports whether there is one. It may have been answered meanwhile. The
// question of stopped work is dropped.
func (t *tx) deliverQuestion(ctx context.Context, s Session, prompt string, state PromptState) (asked bool, err error) {
	err = t.GetContext(ctx, &asked, `select exists (select from questions where prompt_id = $1)`, prompt)
	if err != nil || !asked {
		return false, err
	}
	if state == Stopped {
		return false, t.dropQuestion(ctx, s)
	}
	if s.ThreadTS == "" {
		return true, nil
	}
	return true, t.enqueue(ctx, outboxRow{surface: surfaceSlack, kind: DeliverQuestion, key: questionKey(prompt),
		session: s.ID, prompt: prompt, priority: priorityAnswer})
}
