package slack

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

//go:embed page
var pageFiles embed.FS

var pageTemplates = template.Must(template.ParseFS(pageFiles, "page/*.html"))

// pagePolicy allows the page nothing but its own files; pictures may be from
// anywhere, since blocks name them by address.
const pagePolicy = "default-src 'self'; img-src 'self' https: http: data:; style-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"

// pageEvent tells a page that something is different.
type pageEvent struct {
	Kind    string        `json:"kind"` // message, deleted, session, views, channels
	Channel string        `json:"channel,omitempty"`
	Thread  string        `json:"thread_ts,omitempty"`
	TS      string        `json:"ts,omitempty"`
	Message object        `json:"message,omitempty"`
	Session *agentSession `json:"session,omitempty"`

	only string // the one person who sees it; everybody if empty
}

// subscriber is one open page. Its channel is closed when it is dropped; the
// page then connects again and reads everything anew.
type subscriber struct {
	user string
	out  chan []byte
}

func (s *Server) routePage(mux *http.ServeMux) {
	own := http.NewCrossOriginProtection()
	for path, h := range map[string]http.HandlerFunc{
		"GET /{$}":                s.servePage,
		"GET /page/{file}":        s.serveAsset,
		"GET /page/avatar/{file}": s.serveAvatar,
		"GET /practice/boot":      s.serveBoot,
		"POST /practice/signin":   s.personal(s.pageSignIn),
		"GET /practice/messages":  s.personal(s.pageMessages),
		"GET /practice/views":     s.personal(s.pageViews),
		"GET /practice/stream":    s.serveStream,
		"POST /practice/click":    s.personal(s.pageClick),
		"POST /practice/submit":   s.personal(s.pageSubmit),
		"POST /practice/close":    s.personal(s.pageClose),
		"POST /practice/suggest":  s.personal(s.pageSuggest),
		"POST /practice/command":  s.personal(s.pageCommand),
		"POST /practice/shortcut": s.personal(s.pageShortcut),
		"POST /practice/stop":     s.personal(s.pageStop),
		"POST /practice/home":     s.personal(s.pageHome),
		"POST /practice/rename":   s.personal(s.pageRename),
	} {
		mux.Handle(path, s.ownHost(own.Handler(h)))
	}
}

// ownHost refuses names that could have been pointed here by somebody else
// (DNS rebinding), because the page is given everybody's token.
func (s *Server) ownHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.Host
		if h, _, err := net.SplitHostPort(r.Host); err == nil {
			name = h
		}
		own, err := url.Parse(s.ownURL())
		address := net.ParseIP(strings.Trim(name, "[]")) != nil // not a name: nobody can point it elsewhere
		if err != nil || !address && name != "localhost" && name != own.Hostname() {
			http.Error(w, "this workspace is not known by that name", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	s.render(w, "index.html", object{"Team": s.opts.TeamName})
}

// renderPicker asks who one wants to be; the form posts back to this address.
func (s *Server) renderPicker(w http.ResponseWriter) {
	s.render(w, "picker.html", object{"Team": s.opts.TeamName, "App": s.opts.AppName, "People": s.id.People})
}

func (s *Server) render(w http.ResponseWriter, name string, data any) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	policy := pagePolicy
	if name == "picker.html" {
		policy += "; form-action *" // it is redirected to the application
	}
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	if err := pageTemplates.ExecuteTemplate(w, name, data); err != nil {
		s.log.Error("rendering", "page", name, "err", err)
	}
}

func (s *Server) serveAsset(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.PathValue("file"), ".html") {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeFileFS(w, r, pageFiles, "page/"+r.PathValue("file"))
}

// serveAvatar draws initials on the person's colour.
func (s *Server) serveAvatar(w http.ResponseWriter, r *http.Request) {
	p := s.person(strings.TrimSuffix(r.PathValue("file"), ".svg"))
	if p == nil {
		http.NotFound(w, r)
		return
	}
	first, last, _ := strings.Cut(p.RealName, " ")
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "max-age=3600")
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect width="72" height="72" rx="14" fill="%s"/>`+
		`<text x="36" y="46" font-family="system-ui,sans-serif" font-size="28" font-weight="600" fill="#fff" text-anchor="middle">%s%s</text></svg>`,
		p.Color, first[:1], last[:1])
}

// serveBoot tells a page who there is to be. It is the one place where tokens
// are given out: whoever reaches the stand-in may be anybody in it.
func (s *Server) serveBoot(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	people := []object{}
	for _, p := range s.id.People {
		people = append(people, object{
			"id": p.ID, "name": p.Name, "real_name": p.RealName, "title": p.Title, "color": p.Color, "token": p.Token,
			"dm": s.directRoom(p.ID).ID,
		})
	}
	channels := []object{}
	for _, c := range s.channelList() {
		channels = append(channels, object{"id": c.ID, "name": c.Name, "members": c.Members})
	}
	who := ""
	if p := s.signedIn(r); p != nil {
		who = p.ID
	}
	s.writeJSON(w, object{
		"team": object{"id": s.id.TeamID, "name": s.opts.TeamName}, "people": people, "channels": channels, "signed_in": who,
		"bot":      object{"id": s.id.BotUserID, "bot_id": s.id.BotID, "name": s.opts.BotName, "app": s.opts.AppName},
		"commands": orEmpty(s.opts.Commands), "shortcuts": orEmpty(s.opts.Shortcuts),
	})
}

// personal runs a handler for the person whose token the request carries, as
// Bearer, as the parameter token, or as the field token of a JSON body. It
// answers in the shape of the Web API.
func (s *Server) personal(h func(http.ResponseWriter, string, args) (object, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		a, token, err := readArgs(r)
		if err != nil {
			s.reply(w, nil, fail("invalid_arguments"))
			return
		}
		s.mu.Lock()
		p := s.tokenPerson(token)
		s.mu.Unlock()
		if p == nil {
			s.reply(w, nil, fail("invalid_auth"))
			return
		}
		res, err := h(w, p.ID, a)
		if errors.Is(err, ErrNoResponse) {
			err = fail("no_response")
		}
		s.reply(w, res, err)
	}
}

func (s *Server) pageSignIn(w http.ResponseWriter, user string, _ args) (object, error) {
	setCookie(w, s.person(user).Token)
	return object{"user": user}, nil
}

// pageMessages gives a page everything it shows of a channel: all messages
// that the person sees, ephemeral ones too, and the agent's sessions.
func (s *Server) pageMessages(_ http.ResponseWriter, user string, a args) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.rooms[a["channel"]]
	if in == nil || !in.has(user) {
		return nil, fail("channel_not_found")
	}
	messages := []object{}
	for _, m := range in.messages {
		if m.OnlyFor == "" || m.OnlyFor == user {
			messages = append(messages, s.pageMessage(m))
		}
	}
	sessions := []agentSession{}
	for _, one := range s.sessions {
		if one.Channel == in.ID {
			sessions = append(sessions, *one)
		}
	}
	return object{"messages": messages, "sessions": sessions}, nil
}

// pageMessage is a message with what only pages need to know.
func (s *Server) pageMessage(m *message) object {
	o := s.messageJSON(m, false)
	o["channel"], o["root"] = m.Channel, m.root()
	if m.OnlyFor != "" {
		o["only_for"] = m.OnlyFor
	}
	if m.Thread != "" {
		o["reply"] = true
	}
	return o
}

func (s *Server) pageViews(_ http.ResponseWriter, user string, _ args) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	modals := []object{}
	for _, v := range s.stack(user) {
		modals = append(modals, s.viewJSON(v))
	}
	res := object{"modals": modals, "home": nil}
	if v := s.homes[user]; v != nil {
		res["home"] = s.viewJSON(v)
	}
	return res, nil
}

func (s *Server) showMessage(c *room, m *message) {
	if len(s.pages) > 0 {
		s.show(pageEvent{Kind: "message", Channel: c.ID, Message: s.pageMessage(m), only: m.OnlyFor})
	}
}

// show sends an event to the pages that may see it. A page that does not keep
// up is dropped and starts anew.
func (s *Server) show(ev pageEvent) {
	if len(s.pages) == 0 {
		return
	}
	raw, err := json.Marshal(ev)
	if err != nil {
		s.log.Error("encoding for pages", "err", err)
		return
	}
	in := s.rooms[ev.Channel]
	for p := range s.pages {
		if ev.only != "" && ev.only != p.user || in != nil && !in.has(p.user) {
			continue
		}
		select {
		case p.out <- raw:
		default:
			s.dropPage(p)
		}
	}
}

func (s *Server) dropPage(p *subscriber) {
	if _, open := s.pages[p]; open {
		delete(s.pages, p)
		close(p.out)
	}
}

// serveStream sends a page its events as they happen (server-sent events).
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	who := s.tokenPerson(r.FormValue("token"))
	if who == nil || s.ended {
		s.mu.Unlock()
		http.Error(w, "invalid_auth", http.StatusUnauthorized)
		return
	}
	p := &subscriber{user: who.ID, out: make(chan []byte, 256)}
	s.pages[p] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dropPage(p)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	if err := s.pump(w, r, p); err != nil {
		s.log.Debug("page left", "err", err)
	}
}

func (s *Server) pump(w http.ResponseWriter, r *http.Request, p *subscriber) error {
	out := http.NewResponseController(w)
	alive := time.NewTicker(20 * time.Second)
	defer alive.Stop()
	text := ": connected\n\n"
	for {
		if err := out.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprint(w, text); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-alive.C:
			text = ": still here\n\n"
		case raw, open := <-p.out:
			if !open {
				return nil
			}
			text = "data: " + string(raw) + "\n\n"
		}
	}
}
