package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	slackgo "github.com/slack-go/slack"
	"golang.org/x/oauth2"
)

// relyingParty is an application that people sign in to, and their browser.
type relyingParty struct {
	config  oauth2.Config
	tokens  *oidc.IDTokenVerifier
	browser *http.Client // stops at the application's own address
}

func newRelyingParty(t *testing.T, b *bench) relyingParty {
	t.Helper()
	provider, err := oidc.NewProvider(within(t), b.url)
	if err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return relyingParty{
		config: oauth2.Config{
			ClientID: b.seed.ClientID, ClientSecret: b.seed.ClientSecret, Endpoint: provider.Endpoint(),
			RedirectURL: "http://127.0.0.1:1/callback", Scopes: []string{"openid", "profile", "email"},
		},
		tokens: provider.VerifierContext(context.Background(), &oidc.Config{ClientID: b.seed.ClientID}),
		browser: &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			return http.ErrUseLastResponse
		}},
	}
}

// authorize visits the sign-in page, as somebody if user is given, and returns
// the application's answer; nil if the page asks who one is.
func (p relyingParty) authorize(t *testing.T, user string, options ...oauth2.AuthCodeOption) url.Values {
	t.Helper()
	where := p.config.AuthCodeURL("state1", options...)
	var res *http.Response
	var err error
	if user == "" {
		res, err = p.browser.Get(where)
	} else {
		res, err = p.browser.PostForm(where, url.Values{"user": {user}})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusFound {
		return nil
	}
	back, err := res.Location()
	if err != nil {
		t.Fatal(err)
	}
	return back.Query()
}

func TestPeopleSignInElsewhereWithSlack(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	p, bob := newRelyingParty(t, b), b.seed.Users[1]
	if got := p.authorize(t, ""); got != nil {
		t.Fatalf("a browser that is nobody's got %v", got)
	}
	verifier := oauth2.GenerateVerifier()
	got := p.authorize(t, bob.ID, oauth2.S256ChallengeOption(verifier), oidc.Nonce("nonce1"), oauth2.SetAuthURLParam("team", b.seed.TeamID))
	if got.Get("state") != "state1" {
		t.Fatalf("returned with %v", got)
	}
	token, err := p.config.Exchange(within(t), got.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.tokens.Verify(within(t), token.Extra("id_token").(string))
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		User  string `json:"https://slack.com/user_id"`
		Team  string `json:"https://slack.com/team_id"`
		Email string
		Name  string
	}
	if err := id.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if id.Nonce != "nonce1" || id.Subject != bob.ID || claims.User != bob.ID || claims.Team != b.seed.TeamID || claims.Email != bob.Email {
		t.Errorf("the id token says %+v of %s, nonce %q", claims, id.Subject, id.Nonce)
	}
	info, err := b.clientAs(token.AccessToken).GetOpenIDConnectUserInfo()
	if err != nil || info.UserID != bob.ID {
		t.Errorf("userInfo: %+v, %v", info, err)
	}
	if _, err := p.config.Exchange(within(t), got.Get("code"), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code worked twice")
	}
	if again := p.authorize(t, ""); again.Get("code") == "" {
		t.Error("a browser that is signed in was asked again")
	}
	if asked := p.authorize(t, "", oauth2.SetAuthURLParam("prompt", "select_account")); asked != nil {
		t.Error("prompt=select_account was not asked")
	}
}

func TestSignInRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	p, bob := newRelyingParty(t, b), b.seed.Users[1].ID
	for name, change := range map[string]oauth2.AuthCodeOption{
		"another team":        oauth2.SetAuthURLParam("team", "T404"),
		"another application": oauth2.SetAuthURLParam("client_id", "1.1"),
		"a place elsewhere":   oauth2.SetAuthURLParam("redirect_uri", "https://evil.example/callback"),
		"no openid":           oauth2.SetAuthURLParam("scope", "email"),
	} {
		if got := p.authorize(t, bob, change); got != nil {
			t.Errorf("%s: returned with %v", name, got)
		}
	}
	code := p.authorize(t, bob, oauth2.S256ChallengeOption("right")).Get("code")
	if _, err := p.config.Exchange(within(t), code, oauth2.VerifierOption("wrong")); err == nil {
		t.Error("a wrong PKCE verifier was accepted")
	}
	p.config.ClientSecret = "guessed"
	if _, err := p.config.Exchange(within(t), p.authorize(t, bob).Get("code")); err == nil {
		t.Error("a wrong secret was accepted")
	}
}

func TestFilesAreSharedAndReadOnlyByMembers(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	general, alice := b.seed.Channels[0].ID, b.seed.Users[0]
	const body = "--- a/greet.go\n+++ b/greet.go\n"
	f, err := b.clientAs(alice.Token).UploadFile(slackgo.UploadFileParameters{
		Filename: "change.patch", Title: "The change", Reader: strings.NewReader(body), FileSize: len(body), Channel: general, InitialComment: "look",
	})
	if err != nil {
		t.Fatal(err)
	}
	shared := a.wait(t, 1, ofType("message"))[0]
	m, err := b.WaitMessage(within(t), general, "", func(m Message) bool { return m.Subtype == "file_share" })
	if err != nil || len(m.Files) != 1 || m.Files[0] != f.ID || m.User != alice.ID {
		t.Errorf("shared as %+v, %v; event %s", m, err, shared.Request.EnvelopeID)
	}
	info, _, _, err := b.client().GetFileInfo(f.ID, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := b.client().GetFile(info.URLPrivateDownload, &got); err != nil || got.String() != body {
		t.Errorf("downloaded %q, %v", got.String(), err)
	}
	res, err := http.Get(info.URLPrivate)
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || bytes.Contains(page, []byte("greet.go")) {
		t.Errorf("somebody without a token read %q (%v)", page, err)
	}
}

func TestStreamGrowsAndEnds(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{StreamLife: 300 * time.Millisecond})
	general, alice := b.seed.Channels[0].ID, b.seed.Users[0].ID
	ts, err := b.PostAs(alice, general, "", "go")
	if err != nil {
		t.Fatal(err)
	}
	api := b.client()
	options := func(more ...slackgo.MsgOption) []slackgo.MsgOption {
		return append([]slackgo.MsgOption{slackgo.MsgOptionTS(ts), slackgo.MsgOptionRecipientUserID(alice), slackgo.MsgOptionRecipientTeamID(b.seed.TeamID)}, more...)
	}
	if _, _, err := api.StartStream(general, slackgo.MsgOptionTS(ts)); err == nil || err.Error() != "missing_recipient_user_id" {
		t.Errorf("without a recipient: %v", err)
	}
	_, stream, err := api.StartStream(general, options(slackgo.MsgOptionTaskDisplayMode(slackgo.TaskDisplayModePlan), slackgo.MsgOptionChunks(
		slackgo.NewPlanUpdateChunk("The plan"), slackgo.NewTaskUpdateChunk("t1", "Read"), slackgo.NewMarkdownTextChunk("Hello ")))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := api.AppendStream(general, stream, slackgo.MsgOptionMarkdownText("world")); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := api.UpdateMessage(general, stream, slackgo.MsgOptionText("x", false)); err == nil || err.Error() != "streaming_state_conflict" {
		t.Errorf("updating a stream: %v", err)
	}
	if _, _, err := api.StopStream(general, stream, slackgo.MsgOptionChunks(slackgo.TaskUpdateChunk{Type: "task_update", ID: "t1", Status: "complete"})); err != nil {
		t.Fatal(err)
	}
	m := b.Messages(general, ts)[1]
	var blocks []struct {
		Type, Title, Text string
		Tasks             []struct{ Status string }
	}
	if err := json.Unmarshal(m.Blocks, &blocks); err != nil {
		t.Fatal(err)
	}
	if m.Streaming != "completed" || len(blocks) != 2 || blocks[0].Title != "The plan" || blocks[0].Tasks[0].Status != "complete" || blocks[1].Text != "Hello world" {
		t.Errorf("the message is %+v with %+v", m, blocks)
	}
	if status, _ := b.SessionStatus(general, ts); status != "active" {
		t.Errorf("the session is %q after the stream", status)
	}
	_, stalled, err := api.StartStream(general, options(slackgo.MsgOptionMarkdownText("and then"))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.WaitMessage(within(t), general, ts, func(m Message) bool { return m.TS == stalled && m.Streaming == "errored" }); err != nil {
		t.Errorf("a stream outlived its time: %v", err)
	}
	if _, _, err := api.AppendStream(general, stalled, slackgo.MsgOptionMarkdownText("…")); err == nil || err.Error() != "message_not_in_streaming_state" {
		t.Errorf("appending to an ended stream: %v", err)
	}
}

func TestStopEndsTheStreamAndTellsTheApp(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	general, alice, api := b.seed.Channels[0].ID, b.seed.Users[0].ID, b.client()
	ts, err := b.PostAs(alice, general, "", "go")
	if err != nil {
		t.Fatal(err)
	}
	_, stream, err := api.StartStream(general, slackgo.MsgOptionTS(ts), slackgo.MsgOptionMarkdownText("working"),
		slackgo.MsgOptionRecipientUserID(alice), slackgo.MsgOptionRecipientTeamID(b.seed.TeamID))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.StopAs(alice, general, ts); err != nil {
		t.Fatal(err)
	}
	a.wait(t, 1, ofType("agent_session_stopped"))
	if _, _, err := api.AppendStream(general, stream, slackgo.MsgOptionMarkdownText("more")); err == nil || err.Error() != "stopped_by_user" {
		t.Errorf("appending after Stop: %v", err)
	}
	if status, _ := b.SessionStatus(general, ts); status != "processing" {
		t.Errorf("the session is %q; the app decides what it is after Stop", status)
	}
}

func TestScriptsActThroughHTTP(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	general, bob := b.seed.Channels[0].ID, b.seed.Users[1]
	post := func(path, body string) map[string]any {
		req, err := http.NewRequestWithContext(within(t), http.MethodPost, b.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+bob.Token)
		out, _ := do(t, req)
		return out
	}
	said := post("/api/chat.postMessage", `{"channel":"`+general+`","text":"@inspect hello","link_names":true}`)
	if said["ok"] != true {
		t.Fatalf("posting: %v", said)
	}
	a.wait(t, 1, ofType("app_mention"))
	_, ts, err := b.client().PostMessage(general, slackgo.MsgOptionBlocks(cardBlocks()...))
	if err != nil {
		t.Fatal(err)
	}
	if got := post("/practice/click", `{"channel":"`+general+`","ts":"`+ts+`","action_id":"stop"}`); got["ok"] != true {
		t.Errorf("clicking: %v", got)
	}
	if got := a.wait(t, 1, ofType("block_actions"))[0].Data.(slackgo.InteractionCallback).User.ID; got != bob.ID {
		t.Errorf("%s clicked, want Bob", got)
	}
	if got := post("/practice/click", `{"channel":"`+general+`","ts":"`+ts+`","action_id":"none"}`); got["ok"] != false {
		t.Errorf("clicking what is not there: %v", got)
	}
}

func TestPageIsServedOnlyUnderItsOwnName(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	for name, change := range map[string]func(*http.Request){
		"another host": func(r *http.Request) { r.Host = "rebound.example" },
		"another origin": func(r *http.Request) {
			r.Method = http.MethodPost
			r.URL.Path = "/practice/signin"
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		},
	} {
		req, err := http.NewRequestWithContext(within(t), http.MethodGet, b.url+"/practice/boot", nil)
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode < 400 {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
}

func TestBotIsInvitedOtherBotsAndReactionsAreHeard(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	alice, general := b.seed.Users[0].ID, b.seed.Channels[0].ID
	fresh, err := b.CreateChannelAs(alice, "project")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.InviteAs(alice, fresh, b.seed.BotUserID); err != nil {
		t.Fatal(err)
	}
	a.wait(t, 1, ofType("member_joined_channel"))
	ts, err := b.PostAsOtherBot("Deploys", general, "", "<@"+b.seed.BotUserID+"> it broke")
	if err != nil {
		t.Fatal(err)
	}
	a.wait(t, 1, ofType("app_mention"))
	if err := b.ReactAs(alice, general, ts, "eyes"); err != nil {
		t.Fatal(err)
	}
	if err := b.ReactAs(alice, general, ts, "eyes"); err == nil || !strings.Contains(err.Error(), "already_reacted") {
		t.Errorf("reacting twice: %v", err)
	}
	a.wait(t, 1, ofType("reaction_added"))
	if err := b.OpenHomeAs(alice, "home"); err != nil {
		t.Fatal(err)
	}
	a.wait(t, 1, ofType("app_home_opened"))
	if _, err := b.client().PublishView(alice, slackgo.HomeTabViewRequest{
		Type: "home", Blocks: slackgo.Blocks{BlockSet: cardBlocks()}}, ""); err != nil {
		t.Fatal(err)
	}
	if _, there := b.Home(alice); !there {
		t.Error("the App Home is empty")
	}
	if err := b.DeleteAs(alice, general, ts); err == nil || errors.Is(err, ErrNoResponse) {
		t.Errorf("deleting another's message: %v", err)
	}
}
