package supervisor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"openinspect/sandbox"
)

// setupMark is the file that says that setup.sh has run in this filesystem, and
// which one: it holds the script's checksum.
const setupMark = "setup-done"

// bootUp prepares everything that prompts need, and opens the gate or says why it
// stays shut. OpenCode starts while the repository is prepared: it looks at the
// working tree only when a session asks. It returns when prompts can run, or never
// will: a checkout that is there already is brought up to date meanwhile. The boot
// is given up if the box shall end.
func (s *supervisor) bootUp(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	s.family.tasks.Go(func() {
		select {
		case <-s.parking:
		case <-ctx.Done():
		}
		cancel()
	})
	if err := s.prepare(); err != nil {
		s.openGate(ctx, err)
		return
	}
	spare := s.welcome.Session == ""
	early := !spare && s.repo.exists()
	synced := make(chan error, 1)
	s.gate.syncing.Go(func() {
		err := s.bringUpToDate(ctx)
		synced <- err
		if early {
			s.openGate(ctx, err)
		}
	})
	err := s.phase(sandbox.PhaseAgent, func() (string, error) {
		if err := s.restoreConversation(); err != nil {
			return "", err
		}
		return "", s.startAgent(ctx)
	})
	if err == nil && !early {
		err = <-synced
	}
	if err == nil && spare {
		if err = s.waitForSession(ctx); err == nil {
			early = true
			s.gate.syncing.Go(func() {
				s.openGate(ctx, s.phase(sandbox.PhaseSync, func() (string, error) { return "", s.sync(ctx) }))
			})
		}
	}
	if err == nil {
		err = s.phase(sandbox.PhaseReady, func() (string, error) { return "", s.openFirstSession(ctx) })
	}
	if err != nil {
		cancel()
	}
	if err != nil || !early {
		s.openGate(ctx, err)
	}
}

// bringUpToDate has the checkout ready to be changed.
func (s *supervisor) bringUpToDate(ctx context.Context) error {
	if err := s.phase(sandbox.PhaseSync, func() (string, error) { return "", s.sync(ctx) }); err != nil {
		return err
	}
	if err := s.hook(ctx, sandbox.PhaseSetup, "setup.sh"); err != nil {
		return err
	}
	return s.hook(ctx, sandbox.PhaseStart, "start.sh")
}

// phase reports a step of the boot with its time and, if it failed, its log.
func (s *supervisor) phase(name string, do func() (log string, err error)) error {
	s.bridge.Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: name, State: "running"})
	began := time.Now()
	log, err := do()
	body := sandbox.BodyPhase{Phase: name, State: "done", Millis: time.Since(began).Milliseconds()}
	if err != nil {
		body.State, body.Detail, body.Log = "failed", err.Error(), log
	}
	s.bridge.Event(sandbox.KindPhase, "", body)
	return err
}

// prepare derives everything that follows from the welcome.
func (s *supervisor) prepare() error {
	w := s.welcome
	bot := person{w.BotName, w.BotEmail}.clean()
	s.identity = &identity{
		dir: filepath.Join(s.state, "git"), bot: bot, trailers: trailers(w, bot),
	}
	if err := s.identity.install(); err != nil {
		return fmt.Errorf("installing the git hooks: %w", err)
	}
	if err := s.identity.setAuthor(bot); err != nil {
		return fmt.Errorf("writing the author: %w", err)
	}
	gateway := s.gateway.url()
	if err := prepareConfig(s.cfg.Home, gateway, w.Project, w.Skills); err != nil {
		return fmt.Errorf("preparing OpenCode's configuration: %w", err)
	}
	env := agentEnv(s.cfg.Environ, s.cfg.Home, gateway, s.identity.env(gateway, w.RemoteURL, w.Repository))
	dir := filepath.Join(s.cfg.Workspace, path.Base(w.Repository))
	s.repo = &repository{
		dir: dir, branch: w.Branch, base: w.BaseBranch, origin: w.RemoteURL, url: gateway + "/git/" + w.Repository + ".git", recorded: w.Head,
		env: env, family: s.family, pushes: &s.gateway.pushes, rewritten: make(map[string]bool),
	}
	instructions := []string{filepath.Join(dir, "AGENTS.md")}
	if w.Instructions != "" {
		file := filepath.Join(s.state, "instructions.md")
		if err := writeFile(file, []byte(w.Instructions)); err != nil {
			return fmt.Errorf("writing the instructions: %w", err)
		}
		instructions = append(instructions, file)
	}
	s.settings = agentSettings{
		binary: s.cfg.OpenCode, home: s.cfg.Home, directory: dir, gateway: gateway, toolKey: s.toolKey,
		protocol: w.Protocol, models: []string{w.Model}, small: w.SmallModel, instructions: instructions, env: env,
		project: w.Project, tools: w.Tools, secrets: s.vault.names(),
	}
	return os.MkdirAll(dir, 0o755)
}

// trailers are the last lines of a session's commit messages.
func trailers(w sandbox.Welcome, bot person) []string {
	return []string{"Session: " + w.PageURL, fmt.Sprintf("Co-authored-by: %s <%s>", bot.name, bot.email)}
}

// sync brings the repository to where the session goes on.
func (s *supervisor) sync(ctx context.Context) error {
	if s.repo.empty() {
		if err := s.repo.clone(ctx); err != nil {
			return err
		}
		return s.repo.begin(ctx, s.welcome.Head)
	}
	s.repo.clearLocks()
	fetch := s.repo.fetch
	if !s.repo.exists() { // the agent removed it, and was cut off
		fetch = s.repo.fetchHistory
	}
	// First of all, because it shows whose the commits of an interrupted prompt are.
	if err := fetch(ctx); err != nil {
		return err
	}
	if err := s.settleInterrupted(ctx); err != nil {
		return err
	}
	return s.repo.resume(ctx, s.welcome.Head)
}

// hook runs one of the repository's own scripts, if it has it. setup.sh runs
// once per filesystem; what start.sh leaves running is a declared service.
func (s *supervisor) hook(ctx context.Context, phase, name string) error {
	script := filepath.Join(s.repo.dir, ".openinspect", name)
	if _, err := os.Stat(script); err != nil || phase == sandbox.PhaseSetup && s.isSetUp(script) {
		return nil
	}
	printed := ""
	err := s.phase(phase, func() (log string, err error) {
		log, err = s.runLogged(ctx, script, phase == sandbox.PhaseStart)
		if err != nil {
			printed = lastLines(log, 8)
			return log, fmt.Errorf(".openinspect/%s %w", name, err) // the phase's event carries what it printed
		}
		if phase == sandbox.PhaseSetup {
			err = s.markSetUp(script)
		}
		return "", err
	})
	if printed != "" {
		err = fmt.Errorf("%w. Its last lines:\n%s", err, printed)
	}
	return err
}

// isSetUp says whether setup.sh has run in this filesystem. A session that begins
// from an image runs it again if it has changed since the image was built; later
// it is the session's own work that changes it.
func (s *supervisor) isSetUp(script string) bool {
	mark, err := os.ReadFile(filepath.Join(s.state, setupMark))
	return err == nil && (!s.repo.fresh || string(mark) == checksum(script))
}

func (s *supervisor) markSetUp(script string) error {
	return writeFile(filepath.Join(s.state, setupMark), []byte(checksum(script)))
}

// checksum is of a file's contents; of one that cannot be read it is nobody's.
func checksum(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x\n", sha256.Sum256(data))
}

// runLogged runs a script and returns the end of what it printed.
func (s *supervisor) runLogged(ctx context.Context, script string, services bool) (log string, err error) {
	out, err := os.CreateTemp(s.state, "hook-*.log") // a file, because services keep it open
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	err = s.runHook(ctx, script, services, out)
	return tailOf(out), err
}

// runHook runs a script that prints to a file.
func (s *supervisor) runHook(ctx context.Context, script string, services bool, out *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, s.welcome.SetupTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `if [ -x "$1" ]; then exec "$1"; else exec sh "$1"; fi`, "sh", script)
	cmd.Dir, cmd.Env = s.repo.dir, s.repo.env
	cmd.Stdout, cmd.Stderr = out, out
	if err := s.family.start(cmd); err != nil {
		return fmt.Errorf("did not start: %w", err)
	}
	err := s.family.end(cmd)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		s.endHook()
		return fmt.Errorf("did not end within %s", s.welcome.SetupTimeout)
	case err != nil:
		s.endHook()
		return fmt.Errorf("failed (%w)", err)
	}
	if services {
		s.family.declare()
	} else {
		s.endHook()
	}
	return nil
}

// endHook ends what a hook left running. What OpenCode started is spared: it may
// be reading already.
func (s *supervisor) endHook() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := s.family.endStrays(ctx, 0); err != nil {
		s.cfg.Log.Warn("a hook's processes did not end", "err", err)
	}
}

// tailOf returns the last bytes of a file.
func tailOf(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(info.Size(), tailSize))
	n, _ := f.ReadAt(buf, info.Size()-int64(len(buf)))
	var w tailWriter
	_, _ = w.Write(buf[:n])
	return w.String()
}
