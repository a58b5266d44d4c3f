package github

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	hookID         = 61000001
	hookTimeout    = 10 * time.Second // as github.com's
	keepDeliveries = 250
	maxHookReply   = 64 << 10 // of a receiver's answer that is kept
)

// hookEvents are those that the App subscribes to.
var hookEvents = []string{"check_run", "create", "delete", "issue_comment", "pull_request", "pull_request_review",
	"pull_request_review_comment", "push", "status"}

// delivery is one webhook that was or is to be sent.
type delivery struct {
	ID         int64
	GUID       string
	Event      string
	Action     string
	Repository int64
	Payload    json.RawMessage
	Redelivery bool
	At         time.Time
	Sent       bool
	Took       time.Duration
	Status     int    // 0: no answer
	Trouble    string // why there was no answer
	Answer     string
}

// emit makes a delivery of an event, if webhooks are wanted. extra is what the
// payload holds besides what all have.
func (s *Server) emit(event, action string, r *repository, who *account, extra object) {
	if s.webhookURL == "" {
		return
	}
	payload := object{"sender": s.accountJSON(who), "installation": object{"id": installationID, "node_id": fmt.Sprintf("I_%d", installationID)}}
	d := &delivery{ID: s.nextID(), GUID: uuid.NewString(), Event: event, Action: action, At: s.now().UTC()}
	if action != "" {
		payload["action"] = action
	}
	if r != nil {
		payload["repository"], payload["organization"] = s.repoJSON(r, caller{}), s.login(r.Owner)
		d.Repository = r.ID
	}
	maps.Copy(payload, extra)
	var err error
	if d.Payload, err = json.Marshal(payload); err != nil {
		s.log.Error("writing a webhook", "event", event, "err", err)
		return
	}
	s.queue(d)
}

// queue keeps a delivery for Run and forgets the oldest.
func (s *Server) queue(d *delivery) {
	s.deliveries.put(idKey(d.ID), d)
	if all := s.deliveryList(); len(all) > keepDeliveries {
		for _, old := range all[keepDeliveries:] {
			s.deliveries.remove(idKey(old.ID))
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// emitIn is an event in the repository of a pull request.
func (s *Server) emitIn(event, action string, p *pull, who *account, extra object) {
	s.emit(event, action, s.repos.get(strings.ToLower(p.Repository)), who, extra)
}

func (s *Server) emitPull(action string, p *pull, who *account, extra object) {
	o := object{"number": p.Number, "pull_request": s.fullPullJSON(p)}
	maps.Copy(o, extra)
	s.emitIn("pull_request", action, p, who, o)
}

// emitPush sends push, and create or delete when a ref came or went (old or new
// is empty then).
func (s *Server) emitPush(ctx context.Context, r *repository, who *account, ref, old, new string) error {
	if s.webhookURL == "" {
		return nil
	}
	commits, err := s.bare(r).pushed(ctx, old, new)
	if err != nil {
		return err
	}
	list, head := []object{}, any(nil)
	for _, c := range slices.Backward(commits) { // oldest first
		o := s.pushedCommit(r, c)
		list, head = append(list, o), o
	}
	s.emit("push", "", r, who, object{
		"ref": ref, "before": cmp.Or(old, zeroSHA), "after": cmp.Or(new, zeroSHA), "created": old == "", "deleted": new == "",
		"forced": old != "" && new != "" && !s.bare(r).isAncestor(ctx, old, new), "base_ref": nil,
		"compare": s.pageURL("%s/compare/%.12s...%.12s", r.fullName(), old, new), "commits": list, "head_commit": head,
		"pusher": object{"name": who.Login, "email": who.noreply()},
	})
	kind, name := "branch", strings.TrimPrefix(ref, "refs/heads/")
	if tag, isTag := strings.CutPrefix(ref, "refs/tags/"); isTag {
		kind, name = "tag", tag
	}
	switch {
	case old == "":
		s.emit("create", "", r, who, object{"ref": name, "ref_type": kind, "master_branch": r.DefaultBranch, "pusher_type": "user"})
	case new == "":
		s.emit("delete", "", r, who, object{"ref": name, "ref_type": kind, "pusher_type": "user"})
	}
	return nil
}

// pushed lists the commits of a push, newest first: at most 20, and of a new
// branch only its head.
func (b bare) pushed(ctx context.Context, old, new string) ([]gitCommit, error) {
	switch {
	case new == "":
		return nil, nil
	case old == "":
		return b.log(ctx, new, 1)
	}
	return b.log(ctx, old+".."+new, 20)
}

func (s *Server) pushedCommit(r *repository, c gitCommit) object {
	person := func(t stamp) object {
		o := object{"name": t.Name, "email": t.Email}
		if a := s.accountOf(t.Email); a != nil {
			o["username"] = a.Login
		}
		return o
	}
	return object{"id": c.SHA, "tree_id": c.Tree, "distinct": true, "message": c.Message, "timestamp": date(c.Author.At),
		"url": s.pageURL("%s/commit/%s", r.fullName(), c.SHA), "author": person(c.Author), "committer": person(c.Committer)}
}

// deliveryList is all deliveries, newest first.
func (s *Server) deliveryList() []*delivery {
	return sorted(s.deliveries, func(*delivery) bool { return true }, func(d *delivery) int64 { return -d.ID })
}

// Run sends webhooks until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	client := &http.Client{Timeout: hookTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	for {
		for s.sendNext(ctx, client) {
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// sendNext sends the oldest delivery that is due; false if there is none.
func (s *Server) sendNext(ctx context.Context, client *http.Client) bool {
	s.mu.Lock()
	due := sorted(s.deliveries, func(d *delivery) bool { return !d.Sent }, func(d *delivery) int64 { return d.ID })
	url, secret := s.webhookURL, s.settings.get("webhook_secret").Value
	var d delivery
	if len(due) > 0 {
		d = *due[0]
	}
	s.mu.Unlock()
	if len(due) == 0 || url == "" || ctx.Err() != nil {
		return false
	}
	began := time.Now()
	d.Status, d.Answer, d.Trouble = post(ctx, client, url, secret, &d)
	if ctx.Err() != nil && d.Status == 0 {
		return false // cut short by the end: the next process sends it
	}
	d.Took, d.Sent = time.Since(began), true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deliveries.get(idKey(d.ID)) != nil {
		s.deliveries.put(idKey(d.ID), &d)
	}
	return true
}

// post sends one delivery. Trouble is set if there was no answer.
func post(ctx context.Context, client *http.Client, url, secret string, d *delivery) (status int, answer, trouble string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(d.Payload))
	if err != nil {
		return 0, "", err.Error()
	}
	req.Header = d.header(secret)
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxHookReply)) // the status is what counts
	return resp.StatusCode, string(text), ""
}

func (d *delivery) header(secret string) http.Header {
	sign := func(h func() hash.Hash) string {
		mac := hmac.New(h, []byte(secret))
		mac.Write(d.Payload)
		return fmt.Sprintf("%x", mac.Sum(nil))
	}
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "GitHub-Hookshot/practice")
	h.Set("X-GitHub-Event", d.Event)
	h.Set("X-GitHub-Delivery", d.GUID)
	h.Set("X-GitHub-Hook-ID", strconv.Itoa(hookID))
	h.Set("X-GitHub-Hook-Installation-Target-Type", "integration")
	h.Set("X-GitHub-Hook-Installation-Target-ID", strconv.Itoa(appID))
	h.Set("X-Hub-Signature", "sha1="+sign(sha1.New))
	h.Set("X-Hub-Signature-256", "sha256="+sign(sha256.New))
	return h
}

func (s *Server) deliveryJSON(d *delivery) object {
	status := d.Trouble
	if d.Status != 0 {
		status = http.StatusText(d.Status)
	}
	if d.Status >= 200 && d.Status < 300 {
		status = "OK"
	}
	return object{"id": d.ID, "guid": d.GUID, "event": d.Event, "action": orNull(d.Action), "delivered_at": date(d.At), "redelivery": d.Redelivery,
		"duration": d.Took.Seconds(), "status": status, "status_code": d.Status, "installation_id": installationID, "repository_id": d.Repository}
}

// listDeliveries lists what was sent, newest first, by cursor.
func (s *Server) listDeliveries(c *call) (reply, error) {
	q := c.r.URL.Query()
	size, _ := strconv.Atoi(q.Get("per_page"))
	if size <= 0 {
		size = 30
	}
	before, _ := strconv.ParseInt(q.Get("cursor"), 10, 64)
	list := []object{}
	for _, d := range s.deliveryList() {
		if !d.Sent || before != 0 && d.ID >= before {
			continue
		}
		if len(list) == min(size, 100) {
			q.Set("cursor", fmt.Sprint(list[len(list)-1]["id"]))
			c.head.Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, s.apiURL("app/hook/deliveries"), q.Encode()))
			break
		}
		list = append(list, s.deliveryJSON(d))
	}
	return ok(list), nil
}

func (s *Server) getDelivery(c *call) (reply, error) {
	d := s.deliveries.get(c.arg("id"))
	if d == nil {
		return reply{}, errNotFound
	}
	o := s.deliveryJSON(d)
	headers := object{}
	for name, values := range d.header("") {
		if !strings.HasPrefix(name, "X-Hub") {
			headers[name] = values[0]
		}
	}
	o["request"] = object{"headers": headers, "payload": d.Payload}
	o["response"] = object{"headers": object{}, "payload": d.Answer}
	return ok(o), nil
}

// redeliver sends a delivery again, under its GUID.
func (s *Server) redeliver(c *call) (reply, error) {
	d := s.deliveries.get(c.arg("id"))
	if d == nil {
		return reply{}, errNotFound
	}
	s.queue(&delivery{ID: s.nextID(), GUID: d.GUID, Event: d.Event, Action: d.Action, Repository: d.Repository, Payload: d.Payload,
		Redelivery: true, At: s.now().UTC()})
	return reply{http.StatusAccepted, object{}}, nil
}
