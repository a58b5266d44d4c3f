package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

type screenshotArgs struct {
	URL         string  `json:"url,omitempty" jsonschema:"a page that you serve in the sandbox, such as http://localhost:3000/settings"`
	File        string  `json:"file,omitempty" jsonschema:"instead of url: an HTML or SVG file, relative to the repository, or absolute"`
	Title       string  `json:"title" jsonschema:"what it shows, in a few words, such as Settings before"`
	Width       int     `json:"width,omitempty" jsonschema:"of the window in pixels, 200 to 3840; 1280 if left out"`
	Height      int     `json:"height,omitempty" jsonschema:"of the window in pixels, 200 to 3840; 800 if left out"`
	FullPage    bool    `json:"full_page,omitempty" jsonschema:"take the whole page, not only what fits into the window"`
	WaitSeconds float64 `json:"wait_seconds,omitempty" jsonschema:"wait so long after the page is loaded, at most 20; 1 if left out"`
}

const screenshotHelp = "Take a picture of a page in the sandbox and show it to people, in the thread and on the session's page. " +
	"Take one before you change how something looks and one after, from the same address and size, and show both in the pull request. " +
	"It does not reach the internet; for files that are no pages use upload_artifact."

// shoot takes the picture, keeps it for the agent to look at, and sends it.
func (s *supervisor) shoot(ctx context.Context, _ *turn, args screenshotArgs) (send any, refused string) {
	want, err := args.shot(s.repo.dir)
	if err != nil {
		return nil, sentence(err)
	}
	program, err := browserPath(installedBrowsers, s.cfg.Home, lookUpEnv(s.repo.env, "PLAYWRIGHT_BROWSERS_PATH"))
	if err != nil {
		return nil, sentence(err)
	}
	s.browsing.Lock() // browsers are large: one at a time
	defer s.browsing.Unlock()
	picture, err := photograph(ctx, program, s.repo.env, want)
	if err != nil {
		return nil, sentence(err)
	}
	name := fileName(args.Title) + ".png"
	dir := filepath.Join(os.TempDir(), "screenshots")
	kept := filepath.Join(dir, time.Now().Format("150405.000-")+name)
	if err = os.MkdirAll(dir, 0o755); err == nil {
		err = os.WriteFile(kept, picture, 0o644)
	}
	if err != nil {
		return nil, sentence(fmt.Errorf("the picture could not be kept: %w", err))
	}
	return s.upload(ctx, name, picture, claimedUpload{Title: args.Title, Kind: "screenshot", kept: kept})
}

// shot checks the arguments.
func (a screenshotArgs) shot(dir string) (shot, error) {
	const smallest, largest, longest = 200, 3840, 20
	s := shot{width: int64(cmp.Or(a.Width, 1280)), height: int64(cmp.Or(a.Height, 800)), full: a.FullPage,
		settle: time.Duration(cmp.Or(a.WaitSeconds, 1) * float64(time.Second))}
	switch {
	case strings.TrimSpace(a.Title) == "":
		return s, errors.New("a picture needs a title: say what it shows")
	case min(s.width, s.height) < smallest || max(s.width, s.height) > largest:
		return s, fmt.Errorf("a window has %d to %d pixels each way", smallest, largest)
	case s.settle < 0 || s.settle > longest*time.Second:
		return s, fmt.Errorf("wait_seconds is at most %d", longest)
	case (a.URL == "") == (a.File == ""):
		return s, errors.New("give either url or file")
	}
	var err error
	if a.File != "" {
		s.url, err = fileURL(dir, a.File)
	} else {
		s.url, err = loopbackURL(a.URL)
	}
	return s, err
}

func fileURL(dir, file string) (string, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	path, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", fmt.Errorf("the file cannot be opened: %w", err)
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", file)
	}
	return (&url.URL{Scheme: "file", Path: path}).String(), nil
}

// loopbackURL takes addresses in the box alone.
func loopbackURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%q is not the address of a page: begin it with http://localhost", text)
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); host != "localhost" && !strings.HasSuffix(host, ".localhost") && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("only pages that you serve in the sandbox can be taken, and %s is outside of it", host)
	}
	return u.String(), nil
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// fileName makes a name of a title.
func fileName(title string) string {
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(title), "-"), "-")
	return cmp.Or(name[:min(len(name), 60)], "screenshot")
}
