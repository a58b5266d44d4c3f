package sessions

import (
	"slices"
	"strings"
)

// watched is a session with readers in this process, and how far they are.
type watched struct {
	session string
	seq     int64
	acted   bool
}

// watched lists the sessions that have readers: all, or those of the names.
func (h *hub) watched(names []string) []watched {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []watched
	for session, t := range h.sessions {
		if len(t.subs) == 0 || names != nil && !slices.Contains(names, session) {
			continue
		}
		list = append(list, watched{session, t.seq, t.actor != nil})
	}
	return list
}

// remoteParts compares the running parts of a session that another replica
// works with what this process's readers have, and hands on the difference.
func (h *hub) remoteParts(session string, parts []RunningPart) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.sessions[session]
	if t == nil || t.actor != nil {
		return
	}
	now := map[string]string{}
	for _, p := range parts {
		now[p.Part] = p.Text
		had := t.parts[p.Part]
		switch {
		case had == p.Text:
		case had != "" && strings.HasPrefix(p.Text, had):
			t.send(Update{Delta: &PartDelta{Prompt: p.Prompt, Part: p.Part, Kind: p.Kind, Offset: len(had), Text: p.Text[len(had):]}})
		default:
			t.send(Update{Delta: &PartDelta{Prompt: p.Prompt, Part: p.Part, Kind: p.Kind, Text: p.Text}})
		}
	}
	t.parts = now
}

// wakeAll pokes everybody who waits for anything.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, listeners := range h.wakes {
		for ch := range listeners {
			poke(ch)
		}
	}
}
