package sessions

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"openinspect/sandbox"
)

// Ports of sandboxes that people open. What serves there is the agent's or the
// repository's, so that it is on an origin of its own and must never see what signs
// a person in: who is signed in here gets a ticket for one port of one session,
// which is exchanged there for a secret that is good for nothing else.

// Deadlines of what opens a port.
const (
	portTicketLife = time.Minute
	portVisitLife  = 12 * time.Hour  // at most; it ends with the person's sign-in
	portUse        = 3 * time.Minute // somebody who used one so lately still looks at it
)

// OpenPorts returns the ports of a session's sandbox that are declared for its
// repository.
func (e *Engine) OpenPorts(ctx context.Context, session string) ([]Port, error) {
	s, err := readSession(ctx, e.db, session)
	if err != nil || s.Repository == "" {
		return nil, err
	}
	set, err := e.SettingsFor(ctx, s.Repository)
	return set.Ports, err
}

// errNoPort is for a port that is not declared.
var errNoPort = &Problem{Code: "no_port", Text: "That port is not declared for the session's repository: an administrator can do that on the repository's page."}

func (e *Engine) declared(ctx context.Context, session string, port int) error {
	ports, err := e.OpenPorts(ctx, session)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(ports, func(p Port) bool { return p.Port == port }) {
		return errNoPort
	}
	return nil
}

// PortTicket makes a ticket for one port of a session, for who has the sign-in with
// the secret. It is good once, within a minute.
func (e *Engine) PortTicket(ctx context.Context, login, session string, port int) (ticket string, err error) {
	if err := e.declared(ctx, session, port); err != nil {
		return "", err
	}
	ticket = rand.Text() + rand.Text()
	_, err = e.db.ExecContext(ctx, `
		with gone as (delete from port_entries where expires_at < now())
		insert into port_entries (token_hash, login, session_id, port, ticket, expires_at)
		values ($1, $2, $3, $4, true, now() + make_interval(secs => $5))`,
		hashOf(ticket), hashOf(login), session, port, seconds(portTicketLife))
	if err != nil {
		return "", fmt.Errorf("making a ticket for a port of %s: %w", session, err)
	}
	return ticket, nil
}

// EnterPort exchanges a ticket for the secret that opens the port from now on, or
// returns ErrNotFound.
func (e *Engine) EnterPort(ctx context.Context, ticket, session string, port int) (secret string, err error) {
	secret = rand.Text() + rand.Text()
	res, err := e.db.ExecContext(ctx, `
		with used as (delete from port_entries where token_hash = $1 and ticket and session_id = $2 and port = $3 returning login, expires_at)
		insert into port_entries (token_hash, login, session_id, port, ticket, expires_at)
		select $4, login, $2, $3, false, now() + make_interval(secs => $5) from used where expires_at > now()`,
		hashOf(ticket), session, port, hashOf(secret), seconds(portVisitLife))
	if err != nil {
		return "", fmt.Errorf("entering a port of %s: %w", session, err)
	}
	if fresh, err := affected(res); err != nil || !fresh {
		return "", errors.Join(err, ErrNotFound)
	}
	return secret, nil
}

// PortVisitor returns whose secret opens the port, or ErrNotFound. A visit counts
// as a use of the sign-in behind it, and ends with it. The sandbox is parked later for
// it, as for somebody who looks at the session's page: who stays has to ask again
// within two minutes.
func (e *Engine) PortVisitor(ctx context.Context, secret, session string, port int) (Person, error) {
	var p Person
	err := e.db.GetContext(ctx, &p, `
		with valid as (select l.token_hash, l.person, l.seen_at from port_entries v join logins l on l.token_hash = v.login
			where v.token_hash = $1 and not v.ticket and v.session_id = $2 and v.port = $3 and v.expires_at > now()
				and l.expires_at > now() and l.seen_at > now() - make_interval(secs => $4)),
		seen as (update logins l set seen_at = now() from valid v
			where l.token_hash = v.token_hash and v.seen_at < now() - interval '1 minute'),
		used as (update sandboxes set port_used_at = now() where session_id = $2 and exists (select from valid)
			and (port_used_at is null or port_used_at < now() - interval '20 seconds'))
		select `+personColumns+` from people where id = (select person from valid)`,
		hashOf(secret), session, port, seconds(LoginIdle))
	if err != nil {
		return p, fmt.Errorf("reading who opens a port: %w", notFound(err))
	}
	return p, nil
}

// PortAddress returns where the control plane reaches a declared port of the
// session's sandbox, with the headers that a request needs, and the box's id. A
// *Problem says why it does not: there is no such port, or the sandbox is asleep.
func (e *Engine) PortAddress(ctx context.Context, session string, port int) (address string, header http.Header, box string, err error) {
	if err := e.declared(ctx, session, port); err != nil {
		return "", nil, "", err
	}
	box, err = e.LiveBox(ctx, session)
	if err != nil {
		return "", nil, "", err
	}
	live, err := e.cfg.Provider.Attach(ctx, box)
	if err == nil {
		address, header, err = live.URL(ctx, port)
	}
	if errors.Is(err, sandbox.ErrGone) {
		return "", nil, "", errAsleep
	}
	if err != nil {
		return "", nil, "", fmt.Errorf("finding port %d of %s: %w", port, session, err)
	}
	return address, header, box, nil
}

// What who opens a port reads while no box runs.
var (
	errAsleep = &Problem{Code: "asleep", Text: "The sandbox of this session is asleep, so nothing is served here. " +
		"Reply in the session's thread or on its page to wake it, then open this again."}
	errWaking = &Problem{Code: "waking", Text: "The sandbox of this session is starting. Try again in a moment."}
)

// LiveBox returns the id of the session's running box. A *Problem says that there
// is none.
func (e *Engine) LiveBox(ctx context.Context, session string) (box string, err error) {
	var b struct {
		Box   string       `db:"box"`
		State SandboxState `db:"state"`
		Asked bool         `db:"asked"`
	}
	err = e.db.GetContext(ctx, &b, `select box, state, exists (select from prompts p where p.session_id = b.session_id and p.state = 'queued') as asked
		from sandboxes b where session_id = $1`, session)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", errAsleep
	case err != nil:
		return "", fmt.Errorf("looking for the box of %s: %w", session, err)
	case b.Box != "" && (b.State == SandboxBooting || b.State == SandboxReady):
		return b.Box, nil
	case b.State == SandboxStarting || b.Asked:
		return "", errWaking
	}
	return "", errAsleep
}
