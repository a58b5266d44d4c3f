package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"openinspect/sandbox"
)

// Files are saved only if no secret of the repository is in them. What OpenCode
// keeps of the conversation is cleaned: nobody asked for it to be there. Everything
// else is somebody's work, or does what it does because the value is there, and is
// reported.

// secretsWait bounds the look through all files.
const secretsWait = 60 * time.Second

// mostKept is how many places a report names.
const mostKept = 20

// vetting is a look for secrets while the box is quiet.
type vetting struct {
	asked  string // the prompt after which one is asked for; empty: none is
	cancel func() // ends the one that goes on; nil: none does
}

// giveUp ends the look that goes on: something is to be done that does not wait for it.
func (v *vetting) giveUp() {
	if v.cancel != nil {
		v.cancel()
	}
}

// vet looks for secrets if that was asked for after the prompt that ran last, and
// says what it found. A prompt that comes meanwhile takes precedence, and nothing
// is said.
func (s *supervisor) vet(ctx context.Context) {
	looking, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	prompt := s.vetting.asked
	s.vetting.asked = ""
	if prompt == "" || !s.quietSince(prompt) {
		s.mu.Unlock()
		return
	}
	s.vetting.cancel = cancel
	s.mu.Unlock()
	body := s.lookForSecrets(looking, func() {
		if err := s.ensureAgent(ctx, s.welcome.Model); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("OpenCode does not start again", "err", err)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vetting.cancel = nil
	if looking.Err() == nil {
		s.bridge.Event(sandbox.KindKept, prompt, body)
	}
}

// quietSince says whether nothing has been asked of the box since the prompt. s.mu is held.
func (s *supervisor) quietSince(prompt string) bool {
	return s.quiet == prompt && len(s.queue) == 0 && s.parkReason == ""
}

// lookForSecrets says what of the secrets is in the files that are about to be saved.
// resume, if any, is called when OpenCode, which may have been ended, may run again.
func (s *supervisor) lookForSecrets(ctx context.Context, resume func()) sandbox.BodyKept {
	found, err := s.secretsKept(ctx, resume)
	var body sandbox.BodyKept
	body.Places, body.Omitted = capped(found, mostKept)
	if err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) {
			s.cfg.Log.Warn("secrets were not looked for everywhere", "err", err)
		}
		body.Unchecked = sentence(err)
	}
	return body
}

// secretsKept returns where in home and workspace values of the repository's
// secrets are. It is called while no prompt runs; OpenCode may, and is ended if its
// database has to be cleaned, until resume. An error says that not everything could
// be looked at.
func (s *supervisor) secretsKept(ctx context.Context, resume func()) ([]sandbox.KeptSecret, error) {
	if s.vault.empty() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, secretsWait)
	defer cancel()
	err := s.cleanConversation(ctx)
	if resume != nil {
		resume()
	}
	if err != nil {
		return nil, err
	}
	found, err := s.vault.scan(ctx, s.cfg.Home, s.cfg.Workspace)
	var kept []sandbox.KeptSecret
	for _, f := range found {
		if s.agentsOwn(f.path) && s.vault.rewrite(f.path) == nil {
			continue
		}
		kept = append(kept, s.describeKept(ctx, f))
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("looking for secrets in the files took longer than %s", secretsWait)
	}
	return kept, err
}

// agentsOwn says whether a file is one that OpenCode writes for itself.
func (s *supervisor) agentsOwn(path string) bool {
	for _, dir := range []string{".local/share/opencode", ".local/state/opencode", ".cache/opencode"} {
		if strings.HasPrefix(path, filepath.Join(s.cfg.Home, dir)+"/") {
			return path != filepath.Join(s.cfg.Home, database) && path != filepath.Join(s.cfg.Home, database+"-wal")
		}
	}
	return false
}

// rewrite takes the secrets out of a file.
func (v *vault) rewrite(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	clean, changed := v.matcher.Replace(data)
	if !changed {
		return errors.New("the secret is not in the file as it is")
	}
	return os.WriteFile(path, clean, 0o600) // which keeps the mode of a file that is there
}

// describeKept tells of a find in words that people understand.
func (s *supervisor) describeKept(ctx context.Context, f find) sandbox.KeptSecret {
	kept := sandbox.KeptSecret{Secret: f.secret, Path: f.path}
	if f.object != "" {
		kept.Path, kept.Commit = f.path[:strings.LastIndex(f.path, "/objects/")], f.object
		if file := s.fileOf(ctx, f.object); file != "" {
			kept.Path = file
		}
	}
	if below, ok := strings.CutPrefix(kept.Path, s.cfg.Home+"/"); ok {
		kept.Path = "~/" + below
	}
	return kept
}

// fileOf returns the file of the repository that an object of git is or was; empty
// if no commit has it.
func (s *supervisor) fileOf(ctx context.Context, object string) string {
	if s.repo == nil {
		return ""
	}
	out, err := s.repo.git(ctx, "log", "--all", "--max-count=1", "--find-object="+object, "--name-only", "--format=")
	name, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if err != nil || name == "" {
		return ""
	}
	return filepath.Join(s.repo.dir, name)
}

// readConversation prints all text of a SQLite database, cleanConversation replaces
// words in it and leaves nothing of them in pages that are free. They are run by
// OpenCode's own program, which is Bun when it is asked to be, because a value may
// lie in pieces on several pages of the file.
const (
	readConversation = `import { Database } from 'bun:sqlite'
import { readFileSync, writeSync } from 'fs'
const { path } = JSON.parse(readFileSync(0, 'utf8'))
const db = new Database(path, { readwrite: true })
db.run('pragma busy_timeout = 5000')
let waiting = ''
function flush() {
  for (let rest = Buffer.from(waiting); rest.length; ) rest = rest.subarray(writeSync(1, rest))
  waiting = ''
}
for (const { name } of db.query("select name from sqlite_master where type = 'table'").all())
  for (const row of db.query('select * from "' + name + '"').iterate())
    for (const value of Object.values(row)) {
      if (typeof value === 'string') waiting += value + '\n'
      else if (value instanceof Uint8Array) waiting += Buffer.from(value).toString() + '\n'
      if (waiting.length > 1 << 16) flush()
    }
flush()
`
	replaceInConversation = `import { Database } from 'bun:sqlite'
import { readFileSync } from 'fs'
const { path, forms, by } = JSON.parse(readFileSync(0, 'utf8'))
const db = new Database(path, { readwrite: true })
db.run('pragma busy_timeout = 5000')
for (const { name: table } of db.query("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'").all())
  for (const { name: column } of db.query('pragma table_info("' + table + '")').all())
    for (const form of forms)
      db.query('update "' + table + '" set "' + column + '" = replace("' + column + '", ?1, ?2) where instr("' + column + '", ?1) > 0').run(form, by)
db.run('vacuum')
db.run('pragma wal_checkpoint(truncate)')
db.close()
`
)

// cleanConversation takes secrets out of OpenCode's database and of the copy of it.
// To look for them does not disturb an OpenCode that is idle: SQLite lets several
// processes read. Before anything is changed OpenCode is ended, because it may have
// it in memory too.
func (s *supervisor) cleanConversation(ctx context.Context) error {
	live := filepath.Join(s.cfg.Home, database)
	if _, err := os.Stat(live); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	dirty, err := s.vault.inFiles(ctx, live, live+"-wal", filepath.Join(s.copyDir(), "db"), filepath.Join(s.copyDir(), "db-wal"))
	if err == nil && !dirty {
		dirty, err = s.inConversation(ctx, live)
	}
	if err != nil {
		return fmt.Errorf("the conversation could not be searched for secrets: %w", err)
	}
	if !dirty {
		return nil
	}
	s.currentAgent().kill()
	var forms []string
	for _, value := range s.vault.secrets {
		forms = append(forms, sandbox.SecretForms(value)...)
	}
	if err := s.onDatabase(ctx, replaceInConversation, map[string]any{"path": live, "forms": forms, "by": sandbox.Redacted}, nil); err != nil {
		return fmt.Errorf("secrets could not be taken out of the conversation: %w", err)
	}
	s.saveConversation()
	return nil
}

// inFiles says whether a secret is in one of the files, if it is there.
func (v *vault) inFiles(ctx context.Context, paths ...string) (bool, error) {
	buf := v.matcher.Buffer()
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		secret, err := v.matcher.Search(interruptible{ctx, f}, buf)
		f.Close()
		if err != nil || secret != "" {
			return secret != "", err
		}
	}
	return false, nil
}

// inConversation says whether a secret is in what the database holds.
func (s *supervisor) inConversation(ctx context.Context, path string) (bool, error) {
	text, end := io.Pipe()
	ran := make(chan error, 1)
	s.family.tasks.Go(func() {
		err := s.onDatabase(ctx, readConversation, map[string]any{"path": path}, end)
		end.CloseWithError(err)
		ran <- err
	})
	secret, err := s.vault.matcher.Search(text, s.vault.matcher.Buffer())
	_ = text.Close() // ends the writer if it was found
	if ranErr := <-ran; secret == "" {
		err = errors.Join(err, ranErr)
	}
	return secret != "", err
}

// onDatabase runs a script in OpenCode's program.
func (s *supervisor) onDatabase(ctx context.Context, script string, input map[string]any, output io.Writer) error {
	data, err := json.Marshal(input)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.cfg.OpenCode, "-e", script)
	cmd.Dir = s.cfg.Home
	cmd.Env = append(agentEnv(s.cfg.Environ, s.cfg.Home, s.gateway.url(), nil), "BUN_BE_BUN=1")
	cmd.Stdin = bytes.NewReader(data)
	var printed tailWriter
	cmd.Stdout, cmd.Stderr = output, &printed
	if err := s.family.run(cmd); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(printed.String(), 3))
	}
	return nil
}
