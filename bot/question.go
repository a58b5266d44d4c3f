package bot

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/slack-go/slack"

	"openinspect/sessions"
)

// actionAnswer chooses an option of a question; its value is the prompt that
// asked and the option's place, joined by a colon. Action ids have to differ
// within a block, so the place follows there too.
const actionAnswer = "answer_question:"

// deliverQuestion posts a question, or edits it to how it was answered.
func (d *deliverer) deliverQuestion(ctx context.Context, it sessions.Delivery, t sessions.Thread) error {
	s, err := d.engine.Session(ctx, it.Session)
	if err != nil {
		return err
	}
	q, err := d.engine.Question(ctx, it.Prompt) // after the position, so that nothing later is taken for shown
	if err != nil {
		return err
	}
	p, err := d.engine.Prompt(ctx, it.Prompt)
	if err != nil {
		return err
	}
	author, err := d.slackUser(ctx, p)
	if err != nil {
		return err
	}
	at, err := d.showCard(ctx, it, t, landedAt(it), renderQuestion(q, author, d.pageURL(it.Session)), p.CreatedAt)
	if err != nil {
		return err
	}
	return d.record(ctx, func(ctx context.Context) error {
		return d.engine.Delivered(ctx, it.ID, at, s.LastSeq, !q.Open())
	})
}

// renderQuestion draws a question with a button for each option, or with what
// was answered.
func renderQuestion(q sessions.Question, author, pageURL string) message {
	pieces := renderMarkdown(q.Text, pieceRoom)
	lead := plainElements("❓ ", style{})
	if author != "" {
		lead = append(lead, slack.NewRichTextSectionUserElement(author, nil), slack.NewRichTextSectionTextElement(" ", nil))
	}
	if first, is := firstSection(pieces); is {
		first.Elements = append(lead, first.Elements...)
	} else {
		pieces = append([]piece{{rich: slack.NewRichTextSection(lead...), size: sizeOf(lead), plain: plainOf(lead), own: true}}, pieces...)
	}
	m := single(pieces)
	switch {
	case q.By != "":
		m.blocks = append(m.blocks, contextLine(fmt.Sprintf("✅ *%s* answered: %s", escape(q.By), escape(clip(oneLine(q.Answer), 300)))))
	case !q.Open():
		m.blocks = append(m.blocks, contextLine("This question is not open any more."))
	default:
		var buttons []slack.BlockElement
		for i, o := range q.Options {
			buttons = append(buttons, button(actionAnswer+strconv.Itoa(i), fmt.Sprintf("%s:%d", q.Prompt, i), clip(o, 75)))
		}
		m.blocks = append(m.blocks, slack.NewActionBlock("", buttons...), contextLine("Or reply in your own words. "+link(pageURL, "Open the page")))
	}
	return m
}

// firstSection is the section that a text begins with.
func firstSection(pieces []piece) (*slack.RichTextSection, bool) {
	if len(pieces) == 0 {
		return nil, false
	}
	s, is := pieces[0].rich.(*slack.RichTextSection)
	return s, is
}

// pressAnswer answers a question by its button.
func (b *Bot) pressAnswer(ctx context.Context, key, value string, by uuid.UUID) error {
	prompt, place, _ := strings.Cut(value, ":")
	option, err := strconv.Atoi(place)
	if err != nil {
		return &sessions.Problem{Code: "no_option", Text: "That button is not known here.", Err: errors.New(value)}
	}
	_, err = b.engine.AnswerQuestion(ctx, key, prompt, option, sessions.FromSlack, by)
	return err
}
