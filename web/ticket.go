package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A ticket opens one live connection: of one session, for one sign-in, once,
// within a minute. It is signed with the sign-in's own secret, which the
// connection's cookie proves again, so that every replica can check a ticket of
// any other and none has to store it. Only that it was used is remembered, by
// the replica that saw it.

func (s *Server) mintTicket(v viewer, session string) string {
	until := strconv.FormatInt(time.Now().Add(s.timing.ticket).UnixMilli(), 10)
	nonce := rand.Text()
	return until + "." + nonce + "." + ticketSeal(v.secret, session, until, nonce)
}

func ticketSeal(secret, session, until, nonce string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("live " + session + " " + until + " " + nonce))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// useTicket says whether a ticket opens the session for the viewer, and spends it.
func (s *Server) useTicket(v viewer, session, ticket string) bool {
	until, rest, _ := strings.Cut(ticket, ".")
	nonce, seal, _ := strings.Cut(rest, ".")
	if !hmac.Equal([]byte(seal), []byte(ticketSeal(v.secret, session, until, nonce))) {
		return false
	}
	ms, err := strconv.ParseInt(until, 10, 64)
	if err != nil {
		return false
	}
	return s.spent.spend(nonce, time.UnixMilli(ms))
}

// spentTickets remembers used tickets until they would be too old anyway.
type spentTickets struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func newSpentTickets() *spentTickets { return &spentTickets{until: make(map[string]time.Time)} }

// spend says whether the ticket was unused and is in time.
func (t *spentTickets) spend(nonce string, until time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for other, end := range t.until {
		if end.Before(now) {
			delete(t.until, other)
		}
	}
	if _, used := t.until[nonce]; used || until.Before(now) {
		return false
	}
	t.until[nonce] = until
	return true
}
