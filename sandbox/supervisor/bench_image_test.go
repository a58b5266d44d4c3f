package supervisor

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// npmPackages are dependencies of an ordinary kind.
const npmPackages = `{
  "name": "greeter-page", "version": "1.0.0", "private": true,
  "dependencies": {"express": "^4.21.0", "react": "^18.3.0", "react-dom": "^18.3.0", "lodash": "^4.17.21"},
  "devDependencies": {"typescript": "^5.6.0", "eslint": "^9.10.0", "prettier": "^3.3.0", "vite": "^5.4.0"}
}
`

// npmSetup has Node.js believe whom the machine believes: its registry may have a
// certificate of the organisation's own.
const npmSetup = `export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
npm ci --no-audit --no-fund
`

const firstCommandScript = `match hello
step
call bash
	command: ls node_modules | wc -l

step
say
	Hello.
`

// BenchmarkFirstPromptWithNpm measures a session's first prompt on a repository
// whose setup is a real npm ci, from the start of the box until the agent's first
// command has run: without an image, and from one, whose copying counts. The
// registry is the one that npm is configured for. The proxy on the way there is
// this benchmark's: the product's own refuses registries at addresses that are not
// public, as a mirror's may be.
func BenchmarkFirstPromptWithNpm(b *testing.B) {
	p := newPlane(b, firstCommandScript)
	p.egress = openProxy
	p.welcome.SetupTimeout = 5 * time.Minute
	p.seedFile("package.json", npmPackages)
	p.sh(filepath.Join(p.dir, "seed"), "npm install --package-lock-only --no-audit --no-fund >/dev/null && echo node_modules >> .gitignore && git add -A && git commit -q -m lock && git push -q "+p.remote()+" main")
	p.seedFile(".openinspect/setup.sh", npmSetup)
	image := p.newBox()
	if did, log := image.prepare(p); did.Error != "" {
		b.Fatalf("%s\n%s", did.Error, log)
	}
	var without, with []time.Duration
	for i := 0; b.Loop(); i++ {
		without = append(without, p.firstCommand("plain"+strconv.Itoa(i), p.newBox(), nil))
		with = append(with, p.firstCommand("image"+strconv.Itoa(i), p.newBox(), image))
	}
	b.ReportMetric(percentile(without, 0.5), "p50-ms-without-image")
	b.ReportMetric(percentile(with, 0.5), "p50-ms-from-image")
	b.ReportMetric(percentile(without, 0.5)/percentile(with, 0.5), "ratio")
}

// firstCommand starts a box, from an image if there is one, and returns how long it
// is until the first command of its first prompt has run.
func (p *plane) firstCommand(prompt string, b, image *box) time.Duration {
	p.t.Helper()
	p.prompt(prompt, "hello", "Alice")
	began := time.Now()
	if image != nil {
		for from, to := range map[string]string{image.config.Home: b.config.Home, image.config.Workspace: b.config.Workspace} {
			if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
				p.t.Fatalf("copying the image: %v\n%s", err, out)
			}
		}
	}
	b.start()
	p.tool(prompt, "bash", "completed")
	took := time.Since(began)
	p.settled(prompt)
	b.kill()
	if _, err := os.Stat(filepath.Join(b.checkout(), "node_modules", "express")); err != nil {
		p.t.Fatalf("the setup has not run: %v", err)
	}
	return took
}

// openProxy lets every tunnel through.
func openProxy(w http.ResponseWriter, r *http.Request) {
	up, err := net.DialTimeout("tcp", r.Host, 10*time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer down.Close()
	if _, err := io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(up, down); closeWrite(up) })
	both.Go(func() { _, _ = io.Copy(down, up); closeWrite(down) })
	both.Wait()
}
