package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

const shopScript = `#!/bin/sh
cat > /tmp/shop.js <<'END'
require('http').createServer((request, answer) => {
  answer.setHeader('Content-Type', 'text/html')
  answer.end('<title>Shop</title><h1>Level ' + process.env.LEVEL + '</h1><pre>' + JSON.stringify(request.headers) + '</pre>')
}).listen(3000, '127.0.0.1')
END
node /tmp/shop.js > /tmp/shop.log 2>&1 &
`

const tokenScript = `match show the token
step
call bash
	description: Show the token
	command: echo "it is $NPM_TOKEN"

step
say
	{{.Result "bash"}}
`

const keepScript = `match keep the token
step
call bash
	description: Keep the token
	command: echo "//registry.example/:_authToken=$NPM_TOKEN" > ~/.npmrc

step
say
	It is kept.
`

// put calls the page's JSON API.
func (v visitor) put(path, body string) {
	v.Helper()
	req, err := http.NewRequest("PUT", v.info.URL+path, strings.NewReader(body))
	if err != nil {
		v.Fatal(err)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		v.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		v.Fatalf("PUT %s answers %s", path, resp.Status)
	}
}

// openAs opens a page in a browser in which the person is signed in.
func (v visitor) openAs(path string) tab {
	v.Helper()
	b := openTab(v, 1280, 900, "about:blank")
	at, err := url.Parse(v.info.URL)
	if err != nil {
		v.Fatal(err)
	}
	for _, c := range v.client.Jar.Cookies(at) {
		b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, network.SetCookie, network.SetCookieParams{Name: c.Name, Value: c.Value, URL: v.info.URL})
			return err
		}))
	}
	b.do(chromedp.Navigate(v.info.URL + path))
	return b
}

// park has a session's sandbox parked now, as if it had been idle for long.
func (r *rig) park(session string) {
	r.Helper()
	r.eventually("the sandbox is asked to park", 30*time.Second, func() error {
		res, err := r.db.Exec(`update sandboxes set state = 'parking', state_at = now(), reason = 'it was idle' where session_id = $1 and state = 'ready'`, session)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return fmt.Errorf("it is not ready (%v)", err)
		}
		return nil
	})
}

// becomes waits for a state of a session's sandbox.
func (r *rig) becomes(session, state string) {
	r.Helper()
	r.eventually("the sandbox is "+state, 60*time.Second, func() error {
		var now string
		if err := r.db.Get(&now, `select state from sandboxes where session_id = $1`, session); err != nil || now != state {
			return fmt.Errorf("it is %s (%v)", now, err)
		}
		return nil
	})
}

func TestWhatIsSetForARepositoryReachesItsSandboxAndItsSecretsStayThere(t *testing.T) {
	t.Parallel()
	const secret = "npm_8Kd2mQ0xYr5Wn7Tb"
	r := startRig(t, func(p *practice) {
		p.scripts = scriptFS{"00-token.txt": tokenScript, "01-keep.txt": keepScript}.write(t)
	})
	r.commitFile("greeter", ".openinspect/start.sh", shopScript)
	alice := r.signIn("alice")
	alice.put("/api/repositories/acme/greeter", `{"version":0,"settings":{"ports":[{"port":3000,"label":"Shop"}]}}`)
	alice.put("/api/repositories/acme/greeter/variables/LEVEL", `{"value":"seven","kind":"variable"}`)
	alice.put("/api/repositories/acme/greeter/variables/NPM_TOKEN", `{"value":"`+secret+`","kind":"secret"}`)
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect show the token in acme/greeter")
	session := r.waitSettled(thread, 1, 3*time.Minute)[0].Session
	r.waitMessage(channel, thread, 30*time.Second, "it is [redacted]")

	page := alice.openAs("/sessions/" + session + "/ports/3000")
	page.sees("Level seven", 30*time.Second)
	headers, err := chromedp.Run(page.ctx, chromedp.Evaluate[string]("document.querySelector('pre').textContent + location.host"))
	if err != nil || strings.Contains(strings.ToLower(headers), "openinspect") || !strings.Contains(headers, session+"--3000.localhost") {
		t.Errorf("the program gets %s (%v)", headers, err)
	}

	r.park(session)
	r.becomes(session, "parked")
	r.checkNotSaved(secret)
	page.do(chromedp.Reload())
	page.sees("is asleep", 30*time.Second)

	r.say("alice", channel, thread, "@inspect keep the token")
	r.waitSettled(thread, 2, 3*time.Minute)
	page.do(chromedp.Reload())
	page.sees("Level seven", 30*time.Second)
	r.park(session)
	r.becomes(session, "lost")
	r.waitMessage(channel, thread, 30*time.Second, "were not saved", "NPM_TOKEN in ~/.npmrc")
	transcript := alice.openAs("/sessions/" + session)
	transcript.sees("NPM_TOKEN in ~/.npmrc", 30*time.Second)
	transcript.picture("kept")
	r.checkNowhere(secret)

	r.say("alice", channel, thread, "@inspect show the token")
	if last := r.waitSettled(thread, 3, 3*time.Minute)[2]; last.State != "completed" {
		t.Errorf("the request after it ended as %s: %s", last.State, last.Reason)
	}
}

// checkNotSaved expects a text in no saved file.
func (r *rig) checkNotSaved(text string) {
	r.Helper()
	saved := filepath.Join(r.practice.dir, "sandboxes", "saved")
	files := 0
	err := filepath.WalkDir(saved, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), text) {
			r.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil || files == 0 {
		r.Errorf("%d saved files were looked at (%v)", files, err)
	}
}

// checkNowhere expects a text nowhere in the database.
func (r *rig) checkNowhere(text string) {
	r.Helper()
	for _, table := range []string{"events", "prompts", "outbox", "running_parts", "calls", "setting_changes", "sandboxes", "variables"} {
		var n int
		if err := r.db.Get(&n, `select count(*) from `+table+` t where t::text like '%' || $1 || '%'`, text); err != nil || n > 0 {
			r.Errorf("%d rows of %s hold the secret (%v)", n, table, err)
		}
	}
}
