package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	gh "github.com/google/go-github/v62/github"

	"openinspect/sessions"
)

// perPage is the most that GitHub gives at once.
const perPage = 100

// Repositories lists all repositories that the App is installed on, but for
// archived ones, to which nothing can be pushed.
func (a *App) Repositories(ctx context.Context) ([]sessions.Repository, error) {
	c, err := a.asApp()
	if err != nil {
		return nil, err
	}
	var all []sessions.Repository
	o := &gh.ListOptions{PerPage: perPage}
	for {
		page, resp, err := c.Apps.ListInstallations(ctx, o)
		if err != nil {
			return nil, a.appProblem(err, "the organisation")
		}
		for _, installation := range page {
			if installation.SuspendedAt != nil {
				continue
			}
			list, err := a.installed(ctx, installation.GetID())
			if err != nil {
				return nil, a.appProblem(err, "the organisation")
			}
			all = append(all, list...)
		}
		if resp.NextPage == 0 {
			return all, nil
		}
		o.Page = resp.NextPage
	}
}

// BranchHead implements sessions.Forge. GitHub takes a commit's name as the ETag
// of a branch, and an answer that nothing has changed does not count against the
// rate limit (docs.github.com, "Get a commit" and "Best practices for using the
// REST API").
func (a *App) BranchHead(ctx context.Context, repository, branch, last string) (string, error) {
	owner, name, err := splitName(repository)
	if err != nil {
		return "", problem(CodeNoRepository, "There is no repository "+repository+".", err)
	}
	token, err := a.repositoryToken(ctx, repository, readContents)
	if err != nil {
		return "", err
	}
	sha, _, err := a.client(token).Repositories.GetCommitSHA1(ctx, owner, name, "heads/"+branch, last)
	if err != nil {
		switch status(err) {
		case http.StatusNotModified:
			return last, nil
		case http.StatusConflict, http.StatusUnprocessableEntity:
			return "", problem(CodeNoBranch, "There is no branch "+branch+" in "+repository+".", err)
		}
		return "", a.appProblem(err, repository)
	}
	return sha, nil
}

// installed lists the repositories of one installation.
func (a *App) installed(ctx context.Context, installation int64) ([]sessions.Repository, error) {
	token, err := a.installationToken(ctx, scope{installation, "", readMetadata})
	if err != nil {
		return nil, err
	}
	c := a.client(token)
	var all []sessions.Repository
	o := &gh.ListOptions{PerPage: perPage}
	for {
		page, resp, err := c.Apps.ListRepos(ctx, o)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Repositories {
			if r.GetArchived() || r.GetDisabled() {
				continue
			}
			all = append(all, sessions.Repository{
				Name: r.GetFullName(), GitHubID: r.GetID(), DefaultBranch: r.GetDefaultBranch(),
				Description: r.GetDescription(), Private: r.GetPrivate(),
			})
			a.remember(r.GetFullName(), installation)
		}
		if resp.NextPage == 0 {
			return all, nil
		}
		o.Page = resp.NextPage
	}
}

func (a *App) remember(repository string, installation int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.installations[strings.ToLower(repository)] = installation
}

// Names of the bot while GitHub does not say what the App is called.
const (
	unknownBotName  = "Open-Inspect"
	unknownBotEmail = "noreply@openinspect.invalid"
)

// BotIdentity is the name and address by which commits credit the App:
// slug[bot] and its noreply address. Where GitHub does not answer it is a name
// that credits nobody.
func (a *App) BotIdentity(ctx context.Context) (name, email string) {
	c, err := a.asApp()
	if err != nil {
		return unknownBotName, unknownBotEmail
	}
	app, _, err := c.Apps.Get(ctx, "")
	if err != nil {
		return unknownBotName, unknownBotEmail
	}
	name = app.GetSlug() + "[bot]"
	id, err := a.botID(ctx, c, name)
	if err != nil {
		return unknownBotName, unknownBotEmail
	}
	return name, fmt.Sprintf("%d+%s@users.noreply.github.com", id, name)
}

// botID looks the bot's account up as an installation: the App itself may not.
func (a *App) botID(ctx context.Context, c *gh.Client, name string) (int64, error) {
	installations, _, err := c.Apps.ListInstallations(ctx, &gh.ListOptions{PerPage: 1})
	if err != nil {
		return 0, err
	}
	if len(installations) == 0 {
		return 0, errors.New("the App is not installed anywhere")
	}
	token, err := a.installationToken(ctx, scope{installations[0].GetID(), "", readMetadata})
	if err != nil {
		return 0, err
	}
	bot, _, err := a.client(token).Users.Get(ctx, name)
	return bot.GetID(), err
}
