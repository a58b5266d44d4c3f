package sessions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lib/pq"
)

// What fits into a message with buttons (https://docs.slack.dev/reference/block-kit/block-elements/button-element).
const (
	longestQuestion = 1500 // characters
	longestOption   = 75
	fewestOptions   = 2
	mostOptions     = 5
)

// ask records a question to people. The supervisor ends the prompt when it has
// the result; the answer is the next prompt.
func ask(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error) {
	var asked struct {
		Question string   `json:"question"`
		Options  []string `json:"options"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return wrong, "", nil
	}
	q := BodyQuestion{Text: strings.TrimSpace(asked.Question)}
	for _, o := range asked.Options {
		q.Options = append(q.Options, strings.Join(strings.Fields(o), " "))
	}
	if wrong := q.wrong(); wrong != "" {
		return refusal(wrong), "", nil
	}
	var before bool
	err := t.GetContext(ctx, &before, `select exists (select from questions where prompt_id = $1)`, c.prompt)
	if err != nil {
		return nil, "", fmt.Errorf("looking for a question of %s: %w", c.prompt, err)
	}
	if before {
		return refusal("You have asked a question already: end your turn and wait for its answer."), "", nil
	}
	if err := t.dropQuestion(ctx, c.session); err != nil {
		return nil, "", err
	}
	q.Text = t.e.scrub.text(q.Text)
	for i := range q.Options {
		q.Options[i] = t.e.scrub.text(q.Options[i])
	}
	_, err = t.ExecContext(ctx, `insert into questions (prompt_id, session_id, text, options) values ($1, $2, $3, $4)`,
		c.prompt, c.session.ID, q.Text, pq.Array(q.Options))
	if err != nil {
		return nil, "", fmt.Errorf("recording a question of %s: %w", c.session.ID, err)
	}
	if _, err := t.append(ctx, c.session.ID, entry{prompt: c.prompt, kind: KindQuestion, body: q}); err != nil {
		return nil, "", err
	}
	return &toolResult{text: "The question is asked. Your turn ends here; the answer comes as the next request."}, "", nil
}

// wrong says what is wrong with a question.
func (q BodyQuestion) wrong() string {
	switch n := utf8.RuneCountInString(q.Text); {
	case n == 0:
		return "A question needs words."
	case n > longestQuestion:
		return fmt.Sprintf("A question has at most %d characters, this one has %d: say it shorter.", longestQuestion, n)
	case len(q.Options) < fewestOptions || len(q.Options) > mostOptions:
		return fmt.Sprintf("Give %d to %d options; people can answer in their own words as well.", fewestOptions, mostOptions)
	}
	for i, o := range q.Options {
		switch {
		case o == "" || utf8.RuneCountInString(o) > longestOption:
			return fmt.Sprintf("An option is the label of a button: 1 to %d characters.", longestOption)
		case slices.Contains(q.Options[:i], o):
			return "The options have to differ."
		}
	}
	return ""
}
