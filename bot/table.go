package bot

import (
	"strings"
	"unicode/utf8"

	"github.com/slack-go/slack"
	east "github.com/yuin/goldmark/extension/ast"
)

// Limits of a table block (https://docs.slack.dev/reference/block-kit/blocks/table-block).
const (
	maxTableRows    = 100
	maxTableColumns = 20
)

// table adds a table block, or aligned text if it is too large for one. A message
// holds one table block; pack sees to that.
func (r *markdownRenderer) table(n *east.Table) {
	var rows [][][]slack.RichTextSectionElement
	for row := n.FirstChild(); row != nil; row = row.NextSibling() {
		var cells [][]slack.RichTextSectionElement
		s := style{Bold: row.Kind() == east.KindTableHeader}
		for cell := row.FirstChild(); cell != nil; cell = cell.NextSibling() {
			cells = append(cells, r.inline(cell, s))
		}
		rows = append(rows, cells)
	}
	aligned := alignTable(rows, n.Alignments)
	if len(rows) > maxTableRows || len(n.Alignments) > maxTableColumns || utf8.RuneCountInString(aligned) > r.room {
		r.pre(aligned, "")
		return
	}
	block := slack.NewTableBlock("")
	size := 0
	for _, cells := range rows {
		var out []slack.TableCell
		for _, elements := range cells {
			size += sizeOf(elements)
			if len(elements) == 0 {
				// Slack refuses empty text.
				elements = plainElements(" ", style{})
			}
			out = append(out, slack.NewTableRichTextCell(slack.NewRichTextSection(elements...)))
		}
		block.AddRow(out...)
	}
	for _, a := range n.Alignments {
		block.ColumnSettings = append(block.ColumnSettings, slack.ColumnSetting{Align: columnAlignment(a), IsWrapped: true})
	}
	r.pieces = append(r.pieces, piece{block: block, size: size, plain: aligned})
}

func columnAlignment(a east.Alignment) slack.ColumnAlignment {
	switch a {
	case east.AlignRight:
		return slack.ColumnAlignmentRight
	case east.AlignCenter:
		return slack.ColumnAlignmentCenter
	}
	return slack.ColumnAlignmentLeft
}

// alignTable draws a table with spaces.
func alignTable(rows [][][]slack.RichTextSectionElement, alignments []east.Alignment) string {
	widths := make([]int, len(alignments))
	for _, cells := range rows {
		for i, cell := range cells {
			if i < len(widths) {
				widths[i] = max(widths[i], utf8.RuneCountInString(oneLine(plainOf(cell))))
			}
		}
	}
	var b strings.Builder
	for n, cells := range rows {
		var line []string
		for i, width := range widths {
			says := ""
			if i < len(cells) {
				says = oneLine(plainOf(cells[i]))
			}
			pad := strings.Repeat(" ", width-utf8.RuneCountInString(says))
			if alignments[i] == east.AlignRight {
				line = append(line, pad+says)
			} else {
				line = append(line, says+pad)
			}
		}
		b.WriteString(strings.TrimRight(strings.Join(line, "  "), " ") + "\n")
		if n == 0 {
			var rule []string
			for _, width := range widths {
				rule = append(rule, strings.Repeat("-", width))
			}
			b.WriteString(strings.Join(rule, "  ") + "\n")
		}
	}
	return b.String()
}

// aligned redraws a table block as preformatted text, for a message that has a
// table already.
func aligned(p piece) piece {
	return preformatted(strings.TrimRight(p.plain, "\n"), "")
}
