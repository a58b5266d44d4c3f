package slack

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Limits of what a workspace keeps: beyond them the oldest goes first.
const (
	maxMessages   = 5000 // of one channel
	maxFiles      = 500
	maxFileBytes  = 512 << 20
	maxDeliveries = 10000
)

// object is a JSON object under construction, as Slack's API speaks them.
type object = map[string]any

// identity is what a workspace is founded with and keeps for ever.
type identity struct {
	TeamID       string
	AppID        string
	BotUserID    string
	BotID        string
	BotToken     string
	AppToken     string
	ClientID     string
	ClientSecret string
	Secret       []byte // signs the tokens of OpenID Connect
	Key          []byte // PKCS #8, signs id tokens
	People       []person
}

// person is a member. Everybody is one and the same browser in practice.
type person struct {
	ID, Name, RealName, Email, Title, Color, Token string
}

// Standing is what a person is in the workspace.
type Standing string

// What a person may be. A guest is Slack's multi-channel guest; whose account
// is deactivated can neither sign in nor call anything, but is still shown.
const (
	FullMember  Standing = ""
	Guest       Standing = "guest"
	Deactivated Standing = "deactivated"
)

// room is a channel, or the direct messages of one person with the bot.
type room struct {
	ID, Name, Topic string
	IM              string // the person of a direct message
	Created         int64
	Members         []string

	messages []*message // in order of TS
	byTS     map[string]*message
}

func (c *room) has(user string) bool { return slices.Contains(c.Members, user) }

func (c *room) kind() string {
	if c.IM != "" {
		return "im"
	}
	return "channel"
}

// message is one message, as stored. Fields that are empty are absent in
// Slack's JSON, too.
type message struct {
	Channel, TS string
	Thread      string // TS of the thread's first message, if this is a reply
	User        string
	BotID       string
	Username    string // of another app's bot
	Subtype     string
	Text        string
	Blocks      json.RawMessage `json:",omitempty"`
	Attachments json.RawMessage `json:",omitempty"`
	Metadata    json.RawMessage `json:",omitempty"`
	Files       []string
	Reactions   []reaction
	EditedBy    string
	EditedTS    string
	Edits       int // every change, marked as edited or not
	ClientMsgID string
	OnlyFor     string // the person who sees an ephemeral message
	Broadcast   bool
	Stream      *stream
}

type reaction struct {
	Name  string
	Users []string
}

// root is the TS of the thread a message belongs to or would begin.
func (m *message) root() string {
	if m.Thread != "" {
		return m.Thread
	}
	return m.TS
}

// file is an uploaded file; its bytes are in the folder files.
type file struct {
	ID, Name, Title, User, Mimetype, Alt string
	Size                                 int64
	Created                              int64  // seconds, as Slack shows it
	Order                                string // a timestamp of its own, to tell which is older
	Uploaded                             bool
	Channels                             []string
}

// load replays the journal and founds the workspace if there is none.
func (s *Server) load() error {
	j, err := openJournal(filepath.Join(s.dir, "journal"), s.apply)
	if err != nil {
		return err
	}
	s.journal = j
	if s.id.TeamID == "" {
		if err := s.found(); err != nil {
			return err
		}
	}
	return s.compact()
}

// apply puts one entry of the journal into memory.
func (s *Server) apply(e entry) error {
	switch e.Kind {
	case "identity":
		return json.Unmarshal(e.Value, &s.id)
	case "room":
		c := &room{}
		return s.decode(e, c, func() { s.addRoom(c) })
	case "message":
		return s.applyMessage(e)
	case "standing":
		return applyTo(s.standings, e)
	case "file":
		return applyTo(s.files, e)
	case "session":
		return applyTo(s.sessions, e)
	case "view":
		return applyTo(s.views, e)
	case "home":
		return applyTo(s.homes, e)
	case "event":
		return s.applyDelivery(e)
	}
	return fmt.Errorf("unknown kind of entry")
}

func (s *Server) decode(e entry, into any, then func()) error {
	if err := json.Unmarshal(e.Value, into); err != nil {
		return err
	}
	then()
	return nil
}

func applyTo[T any](m map[string]*T, e entry) error {
	if e.Value == nil {
		delete(m, e.Key)
		return nil
	}
	v := new(T)
	m[e.Key] = v
	return json.Unmarshal(e.Value, v)
}

func (s *Server) applyMessage(e entry) error {
	channel, ts, _ := strings.Cut(e.Key, "/")
	c := s.rooms[channel]
	if c == nil {
		return fmt.Errorf("message of an unknown channel")
	}
	c.drop(ts)
	if e.Value == nil {
		return nil
	}
	m := &message{}
	return s.decode(e, m, func() { s.insert(c, m) })
}

func (s *Server) addRoom(c *room) {
	c.byTS = map[string]*message{}
	s.rooms[c.ID] = c
}

// insert puts a message at its place by time and notes the timestamp as used.
func (s *Server) insert(c *room, m *message) {
	at := len(c.messages)
	for at > 0 && c.messages[at-1].TS > m.TS {
		at--
	}
	c.messages = slices.Insert(c.messages, at, m)
	c.byTS[m.TS] = m
	var sec, micro int64
	if _, err := fmt.Sscanf(m.TS, "%d.%d", &sec, &micro); err == nil {
		s.lastTS = max(s.lastTS, sec*1e6+micro)
	}
}

func (c *room) drop(ts string) {
	if c.byTS[ts] != nil {
		delete(c.byTS, ts)
		c.messages = slices.DeleteFunc(c.messages, func(m *message) bool { return m.TS == ts })
	}
}

// compact rewrites the journal as what is in memory.
func (s *Server) compact() error {
	return s.journal.rewrite(func(put func(kind, key string, v any)) {
		put("identity", "", s.id)
		for user, st := range s.standings {
			put("standing", user, st)
		}
		for id, c := range s.rooms {
			put("room", id, c)
			for _, m := range c.messages {
				put("message", m.Channel+"/"+m.TS, m)
			}
		}
		for id, f := range s.files {
			put("file", id, f)
		}
		for key, a := range s.sessions {
			put("session", key, a)
		}
		for id, v := range s.views {
			put("view", id, v)
		}
		for user, v := range s.homes {
			put("home", user, v)
		}
		for _, d := range s.deliveries {
			if d.Kind == kindEvents {
				put("event", d.ID, d)
			}
		}
	})
}

// found makes a new workspace: its people, channels and secrets.
func (s *Server) found() error {
	key, err := newSigningKey()
	if err != nil {
		return err
	}
	s.id = identity{
		TeamID: "T0PRACTICE", AppID: "A0INSPECT01", BotUserID: "U0INSPECT01", BotID: "B0INSPECT01",
		BotToken: "xoxb-" + secret(24), AppToken: "xapp-1-A0INSPECT01-" + secret(32),
		ClientID: "1000000000001.1000000000002", ClientSecret: secret(16),
		Secret: []byte(secret(32)), Key: key,
		People: []person{
			{"U0ALICE0001", "alice", "Alice Ahmed", "alice@acme.example", "Backend engineer", "#7c3aed", "xoxp-" + secret(24)},
			{"U0BOB000002", "bob", "Bob Brandt", "bob@acme.example", "Product designer", "#0f766e", "xoxp-" + secret(24)},
			{"U0CAROL0003", "carol", "Carol Castro", "carol@acme.example", "Support lead", "#c2410c", "xoxp-" + secret(24)},
		},
	}
	now := time.Now().Unix()
	everybody := []string{s.id.BotUserID}
	for i, p := range s.id.People {
		everybody = append(everybody, p.ID)
		s.addRoom(&room{ID: fmt.Sprintf("D0DIRECT%03d", i+1), IM: p.ID, Created: now, Members: []string{s.id.BotUserID, p.ID}})
	}
	for i, name := range s.opts.Channels {
		s.addRoom(&room{ID: fmt.Sprintf("C0CHANNEL%02d", i+1), Name: name, Created: now, Members: slices.Clone(everybody)})
	}
	return nil
}

// Seed describes a workspace to whoever configures an app or drives people.
// It stays the same over restarts in the same directory.
type Seed struct {
	TeamID, TeamName       string
	AppID                  string
	BotUserID, BotID       string
	BotToken, AppToken     string // xoxb-… and xapp-…
	ClientID, ClientSecret string // for OpenID Connect
	Users                  []SeedUser
	Channels               []SeedChannel
}

// SeedUser is a person; Token (xoxp-…) acts and reads as that person.
type SeedUser struct {
	ID, Name, RealName, Email, Token string
	DM                               string // the person's direct messages with the bot
}

// SeedChannel is a channel; Name has no "#".
type SeedChannel struct{ ID, Name string }

// Seed returns the workspace's fixed facts.
func (s *Server) Seed() Seed {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Seed{
		TeamID: s.id.TeamID, TeamName: s.opts.TeamName, AppID: s.id.AppID,
		BotUserID: s.id.BotUserID, BotID: s.id.BotID, BotToken: s.id.BotToken, AppToken: s.id.AppToken,
		ClientID: s.id.ClientID, ClientSecret: s.id.ClientSecret,
	}
	for _, p := range s.id.People {
		d.Users = append(d.Users, SeedUser{p.ID, p.Name, p.RealName, p.Email, p.Token, s.directRoom(p.ID).ID})
	}
	for _, c := range s.channelList() {
		d.Channels = append(d.Channels, SeedChannel{c.ID, c.Name})
	}
	return d
}

// channelList is every channel in order of creation, without direct messages.
func (s *Server) channelList() []*room {
	var list []*room
	for _, c := range s.rooms {
		if c.IM == "" {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *room) int { return strings.Compare(a.ID, b.ID) })
	return list
}

func (s *Server) directRoom(user string) *room {
	for _, c := range s.rooms {
		if c.IM == user {
			return c
		}
	}
	return nil
}

func (s *Server) person(id string) *person {
	for i := range s.id.People {
		if s.id.People[i].ID == id {
			return &s.id.People[i]
		}
	}
	return nil
}

// standing is what a person is in the workspace.
func (s *Server) standing(user string) Standing {
	if st := s.standings[user]; st != nil {
		return *st
	}
	return FullMember
}

// newTS gives out the next timestamp: microseconds, unique in the workspace.
func (s *Server) newTS() string {
	s.lastTS = max(time.Now().UnixMicro(), s.lastTS+1)
	return fmt.Sprintf("%d.%06d", s.lastTS/1e6, s.lastTS%1e6)
}

// secret is n random bytes in hexadecimal.
func secret(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// newID is a random identifier in Slack's alphabet.
func newID(prefix string) string { return prefix + strings.ToUpper(secret(5)) }
