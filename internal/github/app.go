// Package github is the product's way out to GitHub: what it asks for and does
// there, as the App or with a person's own token. It implements sessions.Forge
// (and AppForge), the git door's source of credentials, and the connecting of
// people's accounts.
//
// # Credentials
//
// The App proves itself by a JWT of its private key, which gets it installation
// tokens. Each of those is asked for one repository and one permission (Token:
// contents; pull requests, checks and logs for themselves), or, to list repositories, for
// metadata alone. They live an hour, are kept in memory, and are replaced when
// less than ten minutes remain, so that whoever gets one can finish a long push
// with it. Callers that need the same new token wait for one request.
//
// A person's token is given by the caller for one call and never kept. No
// token is ever part of an error: what a remote says is redacted before it
// becomes one. Redirects to other hosts are not followed, so no token goes there.
//
// # Errors
//
//   - *sessions.Problem: it will not work by trying again; Text says to a person
//     why, and what to do. Codes are the constants Code*.
//   - *sessions.Retryable: time may mend it. After is what GitHub asked for.
//     Unknown says that a request which changes something may have had its
//     effect: look (FindPullRequest) before doing it again.
//   - an ended context is returned as it is, unless Unknown has to be said.
//
// # Who may call what
//
// The core calls the methods of sessions.Forge; package web those that connect
// accounts (AuthorizeURL, Exchange, GetUser); main gives Token and RemoteURL to
// the git door.
package github

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	gh "github.com/google/go-github/v62/github"

	"openinspect/sessions"
)

// AppConfig says which App this is and where GitHub is.
type AppConfig struct {
	AppID        string
	PrivateKey   []byte // PEM, PKCS#1 (as GitHub gives it out) or PKCS#8
	ClientID     string
	ClientSecret string
	APIURL       string // https://api.github.com/, or a server's …/api/v3/
	WebURL       string // of pages and git: https://github.com/
}

// App is a GitHub App. It is safe for concurrent use.
type App struct {
	cfg  AppConfig
	key  *rsa.PrivateKey
	api  *url.URL
	http *http.Client
	now  func() time.Time

	mu            sync.Mutex
	tokens        map[scope]*slot
	installations map[string]int64 // by owner/name, as last found
}

var _ sessions.AppForge = (*App)(nil)

// NewApp checks the configuration; it asks GitHub nothing.
func NewApp(c AppConfig) (*App, error) {
	key, err := parseKey(c.PrivateKey)
	if err != nil {
		return nil, err
	}
	api, err := url.Parse(withSlash(c.APIURL))
	if err != nil || api.Host == "" {
		return nil, fmt.Errorf("the GitHub API's URL %q is not one", c.APIURL)
	}
	if web, err := url.Parse(c.WebURL); err != nil || web.Host == "" {
		return nil, fmt.Errorf("GitHub's URL %q is not one", c.WebURL)
	}
	c.WebURL = withSlash(c.WebURL)
	return &App{
		cfg: c, key: key, api: api, now: time.Now, http: newHTTPClient(),
		tokens: map[scope]*slot{}, installations: map[string]int64{},
	}, nil
}

func withSlash(u string) string { return strings.TrimRight(u, "/") + "/" }

func parseKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the GitHub App's private key is not PEM")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the GitHub App's private key is neither PKCS#1 nor PKCS#8")
	}
	key, isRSA := parsed.(*rsa.PrivateKey)
	if !isRSA {
		return nil, errors.New("the GitHub App's private key is not an RSA key")
	}
	return key, nil
}

// jwt proves that we are the App. It is dated back a minute for clocks that
// differ, and ends before GitHub's limit of ten.
func (a *App) jwt() (string, error) {
	now := a.now()
	claims, err := json.Marshal(map[string]any{"iss": a.cfg.AppID, "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix()})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("signing as the GitHub App: %w", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// client is the API with a token.
func (a *App) client(token string) *gh.Client {
	c := gh.NewClient(a.http).WithAuthToken(token)
	c.BaseURL = a.api // WithEnterpriseURLs would append to it
	return c
}

// asApp is the API as the App itself.
func (a *App) asApp() (*gh.Client, error) {
	token, err := a.jwt()
	if err != nil {
		return nil, err
	}
	return a.client(token), nil
}

// splitName parts owner/name.
func splitName(repository string) (owner, name string, err error) {
	owner, name, found := strings.Cut(repository, "/")
	if !found || owner == "" || name == "" || strings.ContainsAny(name, "/?#") {
		return "", "", fmt.Errorf("%q is not the name of a repository", repository)
	}
	return owner, name, nil
}
