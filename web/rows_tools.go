package web

import (
	"context"
	"html/template"

	"openinspect/sessions"
)

// What the agent's tools show in the transcript.

// shapeUpdate shows what the agent told people while it worked.
func shapeUpdate(rd *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodyUpdate](ev)
	if err != nil {
		return "", err
	}
	v.Body = rd.markdown.html(b.Text)
	return "row-update", nil
}

// questionView is a question with how it was answered.
type questionView struct {
	sessions.BodyAnswered
	HTML template.HTML
	Open bool
}

func questionKey(prompt string) string { return "question:" + prompt }

// shapeQuestion shows what the agent asks, until it is answered.
func shapeQuestion(rd *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodyQuestion](ev)
	if err != nil {
		return "", err
	}
	v.Key, v.Open, v.InPlace = questionKey(ev.Prompt), true, true
	v.Body = questionView{sessions.BodyAnswered{BodyQuestion: b}, rd.markdown.html(b.Text), true}
	return "row-question", nil
}

// shapeAnswered shows the question with its answer. It stays open to being asked
// again: the answer may be withdrawn.
func shapeAnswered(rd *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodyAnswered](ev)
	if err != nil {
		return "", err
	}
	v.Key, v.Open, v.InPlace = questionKey(ev.Prompt), true, true
	v.Body = questionView{b, rd.markdown.html(b.Text), false}
	return "row-question", nil
}

func childKey(session string) string { return "child:" + session }

// shapeChild shows a session that the agent began, as it is now.
func shapeChild(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodyChild](ev)
	v.Key, v.Open, v.InPlace, v.Body = childKey(b.Session), true, true, b
	return "row-child", err
}
