package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chromedp/chromedp"

	"openinspect/sandbox"
)

// browserTime bounds one picture, with the start of the browser.
const browserTime = 90 * time.Second

// errNoBrowser is what the agent reads where there is none: the base image has
// Playwright's Chromium, a machine that runs boxes itself what is installed there.
var errNoBrowser = errors.New("there is no browser in this sandbox, so no picture can be taken: " +
	"an operator can install Chromium, or start sessions from an image that has it")

// installedBrowsers are where systems have Chromium.
var installedBrowsers = []string{"/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// browserPath finds Chromium: an installed one, or the one that Playwright keeps.
// Debian's /usr/bin/chromium is a script that reads files of /etc, which a box may
// not have; the program is beside it.
func browserPath(installed []string, home, playwright string) (string, error) {
	for _, name := range installed {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	for _, dir := range []string{playwright, filepath.Join(home, ".cache", "ms-playwright"), sandbox.Browsers} {
		for _, program := range []string{"chromium-*/chrome-linux*/chrome", "chromium_headless_shell-*/chrome-*/*headless?shell"} {
			if found, _ := filepath.Glob(filepath.Join(dir, program)); dir != "" && len(found) > 0 { // the pattern is well formed
				return found[len(found)-1], nil
			}
		}
	}
	return "", errNoBrowser
}

// shot is what to take a picture of.
type shot struct {
	url           string
	width, height int64
	full          bool          // the whole page, not what fits into the window
	settle        time.Duration // after it is loaded
}

// photograph starts a browser, looks at a page and ends the browser. It gets the
// environment that the agent has, without the box's token (I7). It is one of the
// prompt's own processes: when the prompt is stopped, it ends like the others.
func photograph(ctx context.Context, program string, env []string, s shot) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, browserTime)
	defer cancel()
	profile, err := os.MkdirTemp("", "browser-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(profile)
	allocated, release := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoInheritEnv, chromedp.Env(env...),
		chromedp.UserDataDir(profile), chromedp.Flag("hide-scrollbars", true))...)
	defer release()
	tab, quit := chromedp.NewContext(allocated)
	defer quit()
	defer func() { _ = chromedp.Cancel(tab) }() // waits for the browser; whoever reaps orphans may have been first
	if err := chromedp.Do(tab, chromedp.EmulateViewport(s.width, s.height), chromedp.Navigate(s.url)); err != nil {
		return nil, fmt.Errorf("the page could not be opened: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.settle):
	}
	take := chromedp.CaptureScreenshot()
	if s.full {
		take = chromedp.FullScreenshot(100)
	}
	picture, err := chromedp.Run(tab, take)
	if err != nil {
		return nil, fmt.Errorf("the picture could not be taken: %w", err)
	}
	return picture, nil
}

// lookUpEnv is a variable of an environment.
func lookUpEnv(env []string, name string) string {
	for _, kv := range env {
		if value, is := strings.CutPrefix(kv, name+"="); is {
			return value
		}
	}
	return ""
}
