package github

import (
	"context"
	"errors"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	gh "github.com/google/go-github/v62/github"

	"openinspect/sessions"
)

// Codes of the problems that this package returns.
const (
	CodeRelink       = "github_relink"    // the person has to connect GitHub again
	CodeNoAccess     = "github_no_access" // the person may not do it in this repository
	CodeAppRefused   = "github_app"       // the App's own configuration or permissions: for an administrator
	CodeNoRepository = "no_repository"    // there is none, or the App is not installed on it
	CodeNoBranch     = "no_branch"        // the branch, or the one to merge into, is not on GitHub
	CodeNoCommits    = "no_commits"       // there is nothing to merge
	CodeNoComment    = "no_comment"       // the pull request has no such comment
	CodeRefused      = "github_refused"   // anything else that GitHub says no to
)

// secretForms are GitHub's tokens, of which long ones contain dots, and JWTs.
var secretForms = regexp.MustCompile(`(gh[a-z]_|github_pat_)[A-Za-z0-9._-]{20,}|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

// plain is an error of the same text without anything that looks like a secret.
// It does not unwrap: what is inside could be printed.
func plain(err error) error {
	return errors.New(secretForms.ReplaceAllString(err.Error(), "[redacted]"))
}

// retryable sorts out what time may mend; nil if err is not such an error.
// effect says that the request changes something.
func (a *App) retryable(err error, effect bool) error {
	var limited *gh.RateLimitError
	var abused *gh.AbuseRateLimitError
	var answered *gh.ErrorResponse
	switch {
	case errors.As(err, &limited):
		return &sessions.Retryable{After: max(time.Second, limited.Rate.Reset.Sub(a.now())), Err: plain(err)}
	case errors.As(err, &abused):
		return &sessions.Retryable{After: abused.GetRetryAfter(), Err: plain(err)}
	case errors.As(err, &answered):
		status := answered.Response.StatusCode
		if status == http.StatusTooManyRequests || status >= 500 {
			return &sessions.Retryable{After: retryAfter(answered.Response), Unknown: effect && status >= 500, Err: plain(err)}
		}
		return nil
	case neverSent(err):
		return &sessions.Retryable{Err: plain(err)}
	case effect:
		return &sessions.Retryable{Unknown: true, Err: plain(err)}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return &sessions.Retryable{Err: plain(err)}
}

// neverSent says that the request did not leave: there was no connection.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func retryAfter(r *http.Response) time.Duration {
	seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// status is GitHub's answer to a request, 0 if there was none.
func status(err error) int {
	var answered *gh.ErrorResponse
	if errors.As(err, &answered) {
		return answered.Response.StatusCode
	}
	return 0
}

// validation finds a 422's error about a field, or whose message contains a text.
func validation(err error, field, text string) bool {
	var answered *gh.ErrorResponse
	if !errors.As(err, &answered) || answered.Response.StatusCode != http.StatusUnprocessableEntity {
		return false
	}
	for _, e := range answered.Errors {
		if field != "" && e.Field == field || text != "" && strings.Contains(e.Message, text) {
			return true
		}
	}
	return false
}

func problem(code, text string, err error) error {
	p := &sessions.Problem{Code: code, Text: text}
	if err != nil {
		p.Err = plain(err)
	}
	return p
}

// appProblem is why the App itself was refused.
func (a *App) appProblem(err error, repository string) error {
	if r := a.retryable(err, false); r != nil {
		return r
	}
	switch status(err) {
	case http.StatusUnauthorized:
		return problem(CodeAppRefused, "GitHub does not accept the App's key: an administrator has to check GITHUB_APP_ID and GITHUB_PRIVATE_KEY.", err)
	case http.StatusNotFound:
		return problem(CodeNoRepository, "The GitHub App is not installed on "+repository+", or there is no such repository.", err)
	case http.StatusForbidden, http.StatusUnprocessableEntity:
		return problem(CodeAppRefused, "The GitHub App lacks a permission for "+repository+": an administrator has to grant it in the App's settings.", err)
	}
	return problem(CodeRefused, "GitHub refused to say anything about "+repository+".", err)
}

const relinkText = "GitHub does not accept your connection any more: connect your GitHub account again."

// userProblem is why a person's token was refused, for good.
func (a *App) userProblem(err error) error {
	if status(err) == http.StatusUnauthorized {
		return problem(CodeRelink, relinkText, err)
	}
	return problem(CodeRefused, "GitHub refused: "+said(err)+".", err)
}

// said is GitHub's own sentence.
func said(err error) string {
	var answered *gh.ErrorResponse
	if !errors.As(err, &answered) {
		return "no reason was given"
	}
	text := answered.Message
	for _, e := range answered.Errors {
		if e.Message != "" {
			text = e.Message
		}
	}
	return strings.TrimRight(secretForms.ReplaceAllString(text, "[redacted]"), ".")
}
