package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// practiceInfo is practice.json: what tools and tests read to use a running
// practice. It is written when everything is ready and removed at the end.
type practiceInfo struct {
	URL      string             `json:"url"`
	PID      int                `json:"pid"`
	ServePID int                `json:"serve_pid"`
	Slack    practiceInfoSlack  `json:"slack"`
	GitHub   practiceInfoGitHub `json:"github"`
	Model    practiceInfoModel  `json:"model"`
}

type practiceInfoSlack struct {
	APIURL       string            `json:"api_url"`
	WorkspaceURL string            `json:"workspace_url"`
	BotToken     string            `json:"bot_token"`
	AppToken     string            `json:"app_token"`
	BotUserID    string            `json:"bot_user_id"`
	Users        []practiceUser    `json:"users"`
	Channels     []practiceChannel `json:"channels"`
}

type practiceUser struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Token string `json:"token"`
}

type practiceChannel struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type practiceInfoGitHub struct {
	APIURL       string               `json:"api_url"`
	GitURL       string               `json:"git_url"`
	Users        []practiceGitHubUser `json:"users"`
	Repositories []string             `json:"repositories"`
}

type practiceGitHubUser struct {
	Login string `json:"login"`
	ID    int64  `json:"id"`
	Token string `json:"token"`
}

type practiceInfoModel struct {
	URL string `json:"url"`
}

func (p *practice) jsonPath() string { return filepath.Join(p.dir, "practice.json") }

// writeJSON writes practice.json, readable by its owner only.
func (p *practice) writeJSON(servePID int) error {
	slack, github := p.slack.Seed(), p.github.Seed()
	info := practiceInfo{
		URL: p.pageURL(), PID: os.Getpid(), ServePID: servePID,
		Slack: practiceInfoSlack{
			APIURL: p.slackURL() + "/api/", WorkspaceURL: p.slackURL() + "/", BotToken: slack.BotToken,
			AppToken: slack.AppToken, BotUserID: slack.BotUserID,
		},
		GitHub: practiceInfoGitHub{APIURL: p.githubURL() + "/api/v3/", GitURL: p.githubURL() + "/", Repositories: github.Repositories},
		Model:  practiceInfoModel{URL: os.Getenv("MODEL_BASE_URL")},
	}
	if p.model != nil {
		info.Model.URL = p.modelURL()
	}
	for _, u := range slack.Users {
		info.Slack.Users = append(info.Slack.Users, practiceUser{ID: u.ID, Name: u.Name, Token: u.Token})
	}
	for _, c := range slack.Channels {
		info.Slack.Channels = append(info.Slack.Channels, practiceChannel{ID: c.ID, Name: c.Name})
	}
	for _, u := range github.Users {
		info.GitHub.Users = append(info.GitHub.Users, practiceGitHubUser{Login: u.Login, ID: u.ID, Token: u.Token})
	}
	return writeFileAtomic(p.jsonPath(), info)
}

// writeFileAtomic writes a value as JSON, mode 0600, so that a reader sees the
// old or the new one whole.
func writeFileAtomic(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// lockFolder makes sure that one practice at a time uses a folder.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("another practice is running in %s: stop it, or choose another folder with --dir", dir)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
