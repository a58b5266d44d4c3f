package supervisor

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"openinspect/sandbox"
)

const npmToken = "npm_5Jk2pQ9xZr7Wm3Tn"

// withSecret gives the box a secret of its repository.
func (b *box) withSecret() *box {
	b.env = []string{"NPM_TOKEN=" + npmToken, "LEVEL=info", sandbox.EnvSecrets + "=NPM_TOKEN"}
	return b
}

// parked parks the box and returns what was said of its files before.
func (p *plane) parked(b *box) sandbox.BodyKept {
	p.t.Helper()
	p.mu.Lock()
	p.park = "it was idle"
	p.notify()
	p.mu.Unlock()
	<-b.done
	return body[sandbox.BodyKept](p.t, p.wait("what the files hold", func(e sandbox.Event) bool { return e.Kind == sandbox.KindKept }))
}

// holding returns the files below a folder that hold the text as it is.
func holding(t *testing.T, dir, text string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

const leakScript = `match keep my token
step
call bash
	description: Keep it
	command: |
		echo "token is $NPM_TOKEN at $LEVEL"
		echo "//registry.example/:_authToken=$NPM_TOKEN" > ~/.npmrc
		printf 'user:%s' "$NPM_TOKEN" | base64 > auth.b64
		echo "TOKEN=$NPM_TOKEN" > config.env && git add config.env && git commit -qm "Add it" && git rm -q config.env && git commit -qm "Remove it"
		ln -s "/tmp/$NPM_TOKEN" link
		echo "$NPM_TOKEN" > closed && chmod 0 closed

step
call read
	filePath: {{.Dir}}/auth.b64

step
say
	I kept it.
`

func TestWhereASecretIsIsSaidBeforeABoxIsSaved(t *testing.T) {
	t.Parallel()
	p := newPlane(t, leakScript)
	b := p.newBox().withSecret()
	p.prompt("p1", "keep my token", "Alice")
	b.start()
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted {
		t.Fatalf("settled as %+v", end)
	}
	kept := p.parked(b)
	var places []string
	for _, k := range kept.Places {
		if k.Secret != "NPM_TOKEN" {
			t.Errorf("%s is said to hold %s", k.Path, k.Secret)
		}
		if k.Commit != "" {
			k.Path += " (committed)"
		}
		places = append(places, strings.TrimPrefix(k.Path, b.checkout()+"/"))
	}
	slices.Sort(places)
	want := []string{"auth.b64", "auth.b64 (committed)", "closed", "closed (committed)", "config.env (committed)", "link", "link (committed)", "~/.npmrc"}
	if slices.Sort(want); !slices.Equal(places, want) {
		t.Errorf("the secret is said to be in %q, want %q", places, want)
	}
	if kept.Unchecked != "" {
		t.Errorf("not all was looked at: %s", kept.Unchecked)
	}
	if info, err := os.Stat(filepath.Join(b.checkout(), "closed")); err != nil || info.Mode().Perm() != 0 {
		t.Errorf("the closed file is %v now (%v)", info.Mode(), err)
	}
	p.checkNotTold(b)
}

// checkNotTold expects that the secret went neither to the model, nor into the
// conversation, nor into what is kept of events.
func (p *plane) checkNotTold(b *box) {
	p.t.Helper()
	p.mu.Lock()
	asked := p.asked
	p.mu.Unlock()
	if !strings.Contains(asked, "token is [redacted] at info") {
		p.t.Errorf("the model did not get the tool's output without the secret")
	}
	if strings.Contains(asked, npmToken) {
		p.t.Error("the model got the secret")
	}
	if log := p.log(); strings.Contains(log, npmToken) {
		p.t.Errorf("an event shows the secret:\n%s", log)
	}
	for _, dir := range []string{".local", ".openinspect", ".cache", ".config"} {
		if dir = filepath.Join(b.config.Home, dir); holds(dir) {
			for _, path := range holding(p.t.(*testing.T), dir, npmToken) {
				p.t.Errorf("%s holds the secret", path)
			}
		}
	}
}

func holds(dir string) bool { _, err := os.Stat(dir); return err == nil }

func TestABoxWithoutSecretsInItsFilesMayBeSaved(t *testing.T) {
	t.Parallel()
	p := newPlane(t, "match say it\nstep\ncall bash\n\tdescription: Say it\n\tcommand: env; sleep 0.3; echo \"$NPM_TOKEN\" | base64; echo \"[$NPM_TOKEN]\"\n\nstep\nsay\n\tSaid.\n")
	b := p.newBox().withSecret()
	p.prompt("p1", "say it", "Alice")
	b.start()
	p.settled("p1")
	if kept := p.parked(b); !kept.Clean() {
		t.Errorf("the files are said to hold %+v", kept)
	}
	if paths := holding(t, b.config.Home, npmToken); len(paths) > 0 {
		t.Errorf("the secret is in %q", paths)
	}
	p.mu.Lock()
	p.park, p.prompts = "", nil
	p.mu.Unlock()
	p.prompt("p2", "say it", "Alice")
	b.start()
	p.settled("p2")
	p.checkRemembered("say it") // the cleaned conversation goes on
}
