package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"
)

// linkPeople connects Alice's and Bob's GitHub accounts as they would do it in
// a browser: sign in with Slack, then follow the link to GitHub and back.
// Carol is left without, so that one can see what that means.
func (p *practice) linkPeople(ctx context.Context) error {
	logins := map[string]bool{}
	for _, u := range p.github.Seed().Users {
		logins[u.Login] = true
	}
	for _, u := range p.slack.Seed().Users {
		login := strings.ToLower(u.Name)
		if login == "carol" || !logins[login] {
			continue
		}
		if err := p.linkPerson(ctx, u.Token, login); err != nil {
			return fmt.Errorf("%s: %w", u.Name, err)
		}
	}
	return nil
}

// linkPerson goes the browser's way for one person, who is signed in to both stand-ins.
func (p *practice) linkPerson(ctx context.Context, slackToken, login string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	for base, cookie := range map[string]*http.Cookie{
		p.slackURL():  {Name: "practice_as", Value: slackToken, Path: "/"},
		p.githubURL(): {Name: "person", Value: login, Path: "/"},
	} {
		u, err := url.Parse(base)
		if err != nil {
			return err
		}
		jar.SetCookies(u, []*http.Cookie{cookie})
	}
	client := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.pageURL()+"/signin/slack?return="+url.QueryEscape("/link/github"), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if end := resp.Request.URL; resp.StatusCode != http.StatusOK || end.Path != "/settings" || !strings.Contains(string(body), login) {
		return fmt.Errorf("the way through sign-in ended at %s with %s", end, resp.Status)
	}
	return nil
}
