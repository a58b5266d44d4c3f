package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// Prepare makes of a box's filesystem what an image of a repository shall be: the
// default branch checked out, .openinspect/setup.sh run, and .openinspect/warm.sh
// if there is one, which fills caches and whose failure is a warning. It prints to
// log, and when it returns nothing of it runs any more. The box is one that
// nobody works in.
//
// What the scripts changed in files that git knows is undone, and what they made
// besides is left and ignored from then on, so that no session commits it as a
// person's work.
func Prepare(ctx context.Context, cfg Config, p sandbox.Preparation, log *os.File) (sandbox.Prepared, error) {
	cfg = cfg.withDefaults()
	s, err := newBase(cfg)
	if err != nil {
		return sandbox.Prepared{}, err
	}
	defer s.family.tasks.Wait()
	defer s.family.endAll()
	s.welcome = sandbox.Welcome{
		Repository: p.Repository, RemoteURL: p.RemoteURL, BaseBranch: p.Branch, Branch: p.Branch,
		BotName: p.BotName, BotEmail: p.BotEmail, SetupTimeout: p.SetupTimeout,
	}
	if s.welcome.SetupTimeout <= 0 {
		s.welcome.SetupTimeout = defaultSetupTimeout
	}
	lines, ended := errgroup.WithContext(ctx)
	serving, hangUp := context.WithCancel(ended)
	lines.Go(func() error { return s.gateway.serve(serving) })
	lines.Go(func() error { return s.family.reap(serving) })
	var did sandbox.Prepared
	lines.Go(func() (err error) {
		defer hangUp()
		did, err = s.makeReady(ended, log)
		return err
	})
	return did, lines.Wait()
}

// makeReady does the steps of Prepare, one after the other.
func (s *supervisor) makeReady(ctx context.Context, log *os.File) (sandbox.Prepared, error) {
	if err := s.prepare(); err != nil {
		return sandbox.Prepared{}, err
	}
	fmt.Fprintf(log, "Cloning %s, branch %s.\n", s.welcome.Repository, s.welcome.BaseBranch)
	if err := s.repo.clone(ctx); err != nil {
		return sandbox.Prepared{}, fmt.Errorf("the repository could not be cloned: %w", err)
	}
	if err := s.repo.begin(ctx, ""); err != nil {
		return sandbox.Prepared{}, fmt.Errorf("the branch could not be checked out: %w", err)
	}
	commit, err := s.repo.head(ctx)
	if err != nil || commit == "" {
		return sandbox.Prepared{}, errors.Join(errors.New("the repository has no commit yet"), err)
	}
	did := sandbox.Prepared{Commit: commit}
	setup := s.script("setup.sh")
	if ran, err := s.runScript(ctx, setup, log); err != nil {
		return did, fmt.Errorf(".openinspect/setup.sh %w", err)
	} else if ran {
		if err := s.markSetUp(setup); err != nil {
			return did, err
		}
	}
	if _, err := s.runScript(ctx, s.script("warm.sh"), log); err != nil {
		did.Warning = sentence(fmt.Errorf(".openinspect/warm.sh %w; the image was made without what it would have done", err))
		fmt.Fprintln(log, did.Warning)
	}
	if err := s.cleanUp(ctx, commit, log); err != nil {
		return did, err
	}
	return did, s.refuseSecrets(ctx)
}

// refuseSecrets fails if a secret's value is in the files: an image is kept, and
// sessions get the secrets that are set when they begin.
func (s *supervisor) refuseSecrets(ctx context.Context) error {
	found, err := s.secretsKept(ctx, nil)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return nil
	}
	var places []string
	shown, omitted := capped(found, mostKept)
	for _, k := range shown {
		places = append(places, k.Secret+" in "+k.Path)
	}
	if omitted > 0 {
		places = append(places, fmt.Sprintf("and %d more places", omitted))
	}
	return fmt.Errorf("values of secrets are in the files: %s. Have the scripts read them from the environment, and remove what they write of them",
		strings.Join(places, ", "))
}

func (s *supervisor) script(name string) string {
	return filepath.Join(s.repo.dir, ".openinspect", name)
}

// runScript runs one of the repository's scripts, if it has it.
func (s *supervisor) runScript(ctx context.Context, script string, log *os.File) (ran bool, err error) {
	if _, err := os.Stat(script); err != nil {
		return false, nil
	}
	fmt.Fprintf(log, "Running .openinspect/%s.\n", filepath.Base(script))
	return true, s.runHook(ctx, script, false, log)
}

// cleanUp leaves the checkout at commit without a change that git would see.
func (s *supervisor) cleanUp(ctx context.Context, commit string, log *os.File) error {
	s.repo.clearLocks()
	changed, err := s.repo.git(ctx, "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return err
	}
	if changed != "" {
		fmt.Fprintf(log, "Undoing what was changed in files of the repository:\n%s", changed)
	}
	// The scripts may have committed, or gone to another branch.
	if _, err := s.repo.git(ctx, "checkout", "--quiet", "--force", "--no-track", "-B", s.repo.branch, commit); err != nil {
		return fmt.Errorf("the repository could not be left clean: %w", err)
	}
	return s.repo.ignoreUntracked(ctx, log)
}

// ignoreUntracked has git ignore, in this checkout alone, files that nobody has
// added. The pattern's special characters are quoted (gitignore(5)).
func (r *repository) ignoreUntracked(ctx context.Context, log *os.File) error {
	out, err := r.git(ctx, "ls-files", "--others", "--exclude-standard", "--directory", "-z")
	if err != nil {
		return err
	}
	var lines strings.Builder
	for name := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		if name == "" || strings.ContainsRune(name, '\n') {
			continue // a name with a line break cannot be written there
		}
		fmt.Fprintf(log, "Ignoring %s, which is not part of the repository.\n", name)
		lines.WriteString("/" + quotePattern.Replace(name) + "\n")
	}
	if lines.Len() == 0 {
		return nil
	}
	path := filepath.Join(r.dir, ".git", "info", "exclude")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeFile(path, slices.Concat(old, []byte(lines.String())))
}

// quotePattern quotes what has a meaning in a line of gitignore.
var quotePattern = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, " ", `\ `)
