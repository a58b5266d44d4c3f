package bot

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/slack-go/slack"

	"openinspect/sessions"
)

// Actions of the elements that cards, menus and answers carry. Their values name
// a prompt; a repository menu's block names its session.
const (
	actionStop   = "stop_prompt"
	actionCancel = "cancel_prompt"
	actionRetry  = "retry_prompt"
	actionChoose = "choose_repository"
	actionOpen   = "open_link:" // + label: a link button, which Slack opens and tells us of as well

	choosePrefix = "choose:" // + session: the block of a menu that asks
	switchPrefix = "switch:" // + session: the block of a card's menu, with which people change their mind
	maxOptions   = 100       // of a menu (https://docs.slack.dev/reference/block-kit/block-elements/select-menu-element)
)

// onPress handles what somebody pressed or chose. Slack does not repeat these;
// it shows the person a warning if the acknowledgement does not come.
func (b *Bot) onPress(ctx context.Context, p *press) (payload any, err error) {
	switch {
	case p.Type == "block_suggestion" && p.ActionID == actionChoose:
		return b.suggest(ctx, p)
	case p.Type != "block_actions":
		return nil, nil
	}
	for _, a := range p.Actions {
		if strings.HasPrefix(a.ID, actionOpen) {
			continue
		}
		if err := b.onAction(ctx, p, a); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// onAction runs one action and tells the person alone if it is refused.
func (b *Bot) onAction(ctx context.Context, p *press, a action) error {
	by, refusal, err := b.presser(ctx, p.User.ID, p.User.TeamID)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("slack-press:%s:%s:%s:%s", b.self.team, p.User.ID, a.ID, a.TS)
	t := b.thread(p.Channel.ID, p.root())
	if refusal != "" {
		return b.tell(ctx, key, t, p.User.ID, refusal)
	}
	switch {
	case strings.HasPrefix(a.ID, actionAnswer):
		err = b.pressAnswer(ctx, key, a.Value, by.ID)
	case a.ID == actionStop:
		err = b.pressStop(ctx, key, a.Value, by.ID)
	case a.ID == actionCancel:
		err = b.engine.Cancel(ctx, a.Value, by.ID)
	case a.ID == actionRetry:
		_, err = b.engine.Retry(ctx, key, a.Value, by.ID)
	case a.ID == actionChoose:
		err = b.pressChoose(ctx, key, a, by)
	case a.ID == actionArchive:
		err = b.pressArchive(ctx, key, t, a.Selected.Value, by)
	}
	if errors.Is(err, sessions.ErrNotFound) {
		err = &sessions.Problem{Code: "gone", Text: "This does not exist any more.", Err: err}
	}
	return b.orTell(ctx, err, key, t, p.User.ID)
}

// presser is the person who pressed, or why they may not.
func (b *Bot) presser(ctx context.Context, user, team string) (by sessions.Person, refusal string, err error) {
	f, err := b.people.profile(ctx, user)
	if err != nil {
		return by, "", fmt.Errorf("asking who %s is: %w", user, err)
	}
	if refusal = b.admission(&event{UserTeam: team}, f); refusal != "" {
		return by, refusal, nil
	}
	by, err = b.person(ctx, user, f)
	return by, "", err
}

// pressStop stops the prompt that the button names and no other: a press may come
// late (I12).
func (b *Bot) pressStop(ctx context.Context, key, prompt string, by uuid.UUID) error {
	p, err := b.engine.Prompt(ctx, prompt)
	if err != nil {
		return err
	}
	stopped, err := b.engine.Stop(ctx, key, p.SessionID, prompt, by)
	if err == nil && stopped == "" {
		return &sessions.Problem{Code: "not_running", Text: "That request has ended already; nothing was stopped."}
	}
	return err
}

// pressChoose settles the repository, by the question's menu or the card's.
func (b *Bot) pressChoose(ctx context.Context, key string, a action, by sessions.Person) error {
	session, asked := strings.CutPrefix(a.BlockID, choosePrefix)
	if !asked {
		session = strings.TrimPrefix(a.BlockID, switchPrefix)
	}
	return b.engine.ChooseRepository(ctx, key, session, a.Selected.Value, by.ID)
}

// suggest answers a menu that asks for its options. If what was typed leaves one,
// it is the one that will be chosen.
func (b *Bot) suggest(ctx context.Context, p *press) (any, error) {
	repositories, err := b.engine.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	options := []*slack.OptionBlockObject{}
	for _, r := range repositories {
		if len(options) < maxOptions && strings.Contains(strings.ToLower(r.Name), strings.ToLower(strings.TrimSpace(p.Value))) {
			options = append(options, repositoryOption(r.Name))
		}
	}
	if len(options) == 1 {
		if err := b.engine.Interest(ctx, sessions.Interest{Repository: options[0].Value}); err != nil {
			b.log.Warn("nothing could be prepared for a choice", "repository", options[0].Value, "err", err)
		}
	}
	return struct {
		Options []*slack.OptionBlockObject `json:"options"`
	}{options}, nil
}

// repositoryOption is one entry of a repository menu. Slack cuts an option's text
// at 75 characters and refuses longer ones.
func repositoryOption(name string) *slack.OptionBlockObject {
	return slack.NewOptionBlockObject(name, plain(clip(name, 75)), nil)
}
