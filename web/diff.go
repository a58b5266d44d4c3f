package web

import (
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"

	"openinspect/sandbox"
)

// diffMost is how many lines of one file's diff are shown.
const diffMost = 1500

// fileView is one file of a diff as the page shows it.
type fileView struct {
	Path, Old, Status    string
	Additions, Deletions int
	Hunks                []hunkView
	Binary               bool
	Cut                  int  // lines that are not shown
	Open                 bool // unfolded at first
}

// hunkView is one hunk.
type hunkView struct {
	Where string // what follows the second @@: usually the function
	Lines []lineView
}

// lineView is one line: its numbers before and after (0: not there), its sign and its text.
type lineView struct {
	Old, New int64
	Sign     string // "+", "-" or " "
	Text     string
}

// patchView parses one unified diff. What cannot be parsed is shown as one hunk
// without numbers rather than not at all.
func patchView(patch string) []fileView {
	files, _, err := gitdiff.Parse(strings.NewReader(patch))
	if err != nil || len(files) == 0 {
		return []fileView{rawFileView(patch)}
	}
	views := make([]fileView, 0, len(files))
	for _, f := range files {
		views = append(views, gitFileView(f))
	}
	return views
}

func gitFileView(f *gitdiff.File) fileView {
	v := fileView{Path: f.NewName, Status: "modified", Binary: f.IsBinary}
	switch {
	case f.IsNew:
		v.Status = "added"
	case f.IsDelete:
		v.Status, v.Path = "deleted", f.OldName
	case f.IsRename:
		v.Status, v.Old = "renamed", f.OldName
	}
	shown := 0
	for _, t := range f.TextFragments {
		v.Additions += int(t.LinesAdded)
		v.Deletions += int(t.LinesDeleted)
		lines := numbered(t)
		if room := diffMost - shown; len(lines) > room {
			v.Cut += len(lines) - room
			lines = lines[:room]
		}
		shown += len(lines)
		if len(lines) > 0 {
			v.Hunks = append(v.Hunks, hunkView{Where: t.Comment, Lines: lines})
		}
	}
	return v
}

func numbered(t *gitdiff.TextFragment) []lineView {
	before, after := t.OldPosition, t.NewPosition
	lines := make([]lineView, 0, len(t.Lines))
	for _, l := range t.Lines {
		v := lineView{Sign: l.Op.String(), Text: strings.TrimRight(l.Line, "\r\n")}
		if l.Old() {
			v.Old = before
			before++
		}
		if l.New() {
			v.New = after
			after++
		}
		lines = append(lines, v)
	}
	return lines
}

// rawFileView shows a diff that could not be parsed by the first character of its lines.
func rawFileView(patch string) fileView {
	var v fileView
	var lines []lineView
	for text := range strings.Lines(patch) {
		text = strings.TrimRight(text, "\r\n")
		line := lineView{Sign: " ", Text: strings.TrimPrefix(text, " ")}
		switch {
		case strings.HasPrefix(text, "+++") || strings.HasPrefix(text, "---") || strings.HasPrefix(text, "diff --git "):
			continue
		case strings.HasPrefix(text, "+"):
			line.Sign, line.Text = "+", text[1:]
			v.Additions++
		case strings.HasPrefix(text, "-"):
			line.Sign, line.Text = "-", text[1:]
			v.Deletions++
		}
		if len(lines) == diffMost {
			v.Cut++
			continue
		}
		lines = append(lines, line)
	}
	v.Hunks = []hunkView{{Lines: lines}}
	return v
}

// changesView is what a prompt changed, file by file. Small changes are unfolded.
func changesView(files []sandbox.FileDiff) []fileView {
	const openFiles, openLines = 20, 400
	views := make([]fileView, 0, len(files))
	for i, f := range files {
		v := fileView{Path: f.Path, Status: f.Status}
		if f.Patch != "" {
			v = patchView(f.Patch)[0]
			v.Path, v.Status = f.Path, f.Status
		} else {
			v.Binary = true
		}
		v.Additions, v.Deletions = f.Additions, f.Deletions
		v.Open = !v.Binary && len(files) <= openFiles && i < 3 && f.Additions+f.Deletions <= openLines
		views = append(views, v)
	}
	return views
}
