package bot

import (
	"github.com/slack-go/slack"
)

// Small constructors for the blocks that this package uses. Their texts are
// mrkdwn that was escaped already, or plain text.

func plain(text string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.PlainTextType, text, false, false)
}

// mrkdwn is verbatim: otherwise Slack looks for mentions and names of channels in
// plain words too (https://docs.slack.dev/reference/block-kit/composition-objects/text-object),
// and some of the words are the agent's (I10).
func mrkdwn(text string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.MarkdownType, text, false, true)
}

// section shows mrkdwn. Slack refuses more than 3000 characters.
func section(text string) *slack.SectionBlock {
	return slack.NewSectionBlock(mrkdwn(clipMarkup(text, 2900)), nil, nil, slack.SectionBlockOptionExpand(true))
}

// contextLine shows mrkdwn in small grey letters.
func contextLine(text string) *slack.ContextBlock {
	return slack.NewContextBlock("", mrkdwn(clipMarkup(text, 1900)))
}

func button(action, value, label string) *slack.ButtonBlockElement {
	return slack.NewButtonBlockElement(action, value, plain(label))
}

// linkButton opens an address. Action ids have to differ within a block, as
// labels do.
func linkButton(label, url string) *slack.ButtonBlockElement {
	return slack.NewButtonBlockElement(actionOpen+clip(label, 75), "", plain(clip(label, 75))).WithURL(url)
}

// repositoryMenu lists repositories, at most maxOptions.
func repositoryMenu(placeholder string, names []string) *slack.SelectBlockElement {
	var options []*slack.OptionBlockObject
	for _, name := range names {
		options = append(options, repositoryOption(name))
	}
	return slack.NewOptionsSelectBlockElement(slack.OptTypeStatic, plain(placeholder), actionChoose, options...)
}

// repositorySearch is a menu that asks us for its options (onPress).
func repositorySearch(placeholder string) *slack.SelectBlockElement {
	zero := 0
	menu := slack.NewOptionsSelectBlockElement(slack.OptTypeExternal, plain(placeholder), actionChoose)
	menu.MinQueryLength = &zero
	return menu
}
