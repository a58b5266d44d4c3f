package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkFirstPromptFromImage measures a session's first prompt, from its mention
// to its acceptance by OpenCode and to its first model request, when its sandbox
// starts from the repository's image.
func BenchmarkFirstPromptFromImage(b *testing.B) {
	r := benchRig(b, nil)
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect say hello 0 in acme/greeter")
	r.waitSettled(thread, 1, time.Minute)
	r.imageBuilt("acme/greeter", 3*time.Minute)
	var took waits
	for i := 1; i <= 5; i++ {
		time.Sleep(time.Second) // Slack takes one post a second in a channel
		text := fmt.Sprintf("say hello %d", i)
		thread := r.say("alice", channel, "", "@inspect "+text+" in acme/greeter")
		took.add(r.reached(thread, "", text))
		r.waitSettled(thread, 1, time.Minute)
	}
	b.ReportMetric(millis(quantile(took.accepted, 0.5)), "accepted-ms")
	b.ReportMetric(millis(quantile(took.asked, 0.5)), "model-ms")
	b.ReportMetric(5000, "model-ms-max")
	b.ReportMetric(0, "ns/op")
}

// npmPackages are dependencies of an ordinary kind.
const npmPackages = `{
  "name": "greeter-page", "version": "1.0.0", "private": true,
  "dependencies": {"express": "^4.21.0", "react": "^18.3.0", "react-dom": "^18.3.0", "lodash": "^4.17.21"},
  "devDependencies": {"typescript": "^5.6.0", "eslint": "^9.10.0", "prettier": "^3.3.0", "vite": "^5.4.0"}
}
`

// BenchmarkFirstPromptWithNpm measures a session's first prompt, until the agent's
// first command has run, on a repository whose setup is a real npm ci, with the
// repository's image and without. The registry is the one that npm is configured
// for, reached through the egress proxy.
func BenchmarkFirstPromptWithNpm(b *testing.B) {
	r := benchRig(b, func(p *practice) { p.scripts = imageScripts.write(b) })
	remote := r.remoteAs("alice", "greeter")
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(npmPackages), 0o644); err != nil {
		b.Fatal(err)
	}
	lock := exec.Command("npm", "install", "--package-lock-only", "--no-audit", "--no-fund")
	lock.Dir = dir
	if out, err := lock.CombinedOutput(); err != nil {
		b.Fatalf("making the lock file: %v\n%s", err, out)
	}
	locked, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		b.Fatal(err)
	}
	r.pushFile(remote, ".gitignore", "node_modules\n")
	r.pushFile(remote, "package.json", npmPackages)
	r.pushFile(remote, "package-lock.json", string(locked))
	r.pushFile(remote, ".openinspect/setup.sh", "npm ci --no-audit --no-fund\necho prepared > ../prepared.txt\n")
	channel := r.channel("greeter")
	first := func() time.Duration {
		time.Sleep(time.Second)
		thread := r.say("alice", channel, "", "@inspect look and leave in acme/greeter")
		if p := r.waitSettled(thread, 1, 5*time.Minute); p[0].State != "completed" {
			b.Fatalf("the request ended as %s: %s", p[0].State, p[0].Reason)
		}
		var ran time.Time
		if err := r.db.Get(&ran, `select min(e.at) from events e join sessions s on s.id = e.session_id where s.thread = $1
			and e.kind = 'tool' and e.body->>'tool' = 'bash' and e.body->>'state' = 'completed'`, thread); err != nil {
			b.Fatal(err)
		}
		return ran.Sub(slackTime(thread))
	}
	without := first()
	r.imageBuilt("acme/greeter", 5*time.Minute)
	with := []time.Duration{first(), first(), first()}
	b.ReportMetric(millis(without), "without-image-ms")
	b.ReportMetric(millis(quantile(with, 0.5)), "with-image-ms")
	b.ReportMetric(float64(without)/float64(quantile(with, 0.5)), "ratio")
	b.ReportMetric(0, "ns/op")
}
