package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"openinspect/sandbox"
)

// ForAll stands for all repositories where settings name one.
const ForAll = ""

// VariableKind says who gets a variable and who sees it.
type VariableKind string

// The kinds of variables.
const (
	PlainVariable VariableKind = "variable" // sandboxes get it, and everybody sees it
	SecretInside  VariableKind = "secret"   // sandboxes get it
	SecretOutside VariableKind = "outside"  // only for headers that the control plane adds
)

// Variable is an environment variable of a repository's sandboxes, or a secret. The
// value of a secret is written only: nobody reads it here again.
type Variable struct {
	Name  string       `db:"name"`
	Kind  VariableKind `db:"kind"`
	Value string       `db:"value"` // of a PlainVariable
	By    string       `db:"by"`    // who set it
	At    time.Time    `db:"set_at"`
}

// Limits of variables. Linux passes 128 KiB to a program as one string
// (MAX_ARG_STRLEN in execve(2)); all of them together have to leave room for what
// programs add.
const (
	mostVariables   = 100       // of a repository
	longestVariable = 32 << 10  // bytes of one value
	allVariables    = 256 << 10 // bytes of all values that one sandbox gets
	longestName     = 100
)

// keepOldSecrets is for how long a replaced secret is still scrubbed: longer than
// any sandbox lives that was started with it.
const keepOldSecrets = 14 * 24 * time.Hour

var variableName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)

// checkVariable says what is wrong with a variable, as a *Problem.
func checkVariable(name, value string, kind VariableKind) error {
	refuse := func(format string, args ...any) error {
		return &Problem{Code: "bad_variable", Text: fmt.Sprintf(format, args...)}
	}
	switch {
	case name == "":
		return refuse("A variable needs a name, such as NPM_TOKEN.")
	case len(name) > longestName:
		return refuse("The name is too long: %d characters at most.", longestName)
	case !variableName.MatchString(name):
		return refuse("%q cannot be a variable's name: use capital letters, digits and _, and do not begin with a digit. For instance NPM_TOKEN.", shorten(name, longestName))
	case sandbox.Reserved(name):
		return refuse("%s belongs to the sandbox itself: choose another name.", name)
	case strings.ContainsRune(value, 0) || !utf8.ValidString(value):
		return refuse("The value of %s is not text: encode it, for instance in base64, and decode it in .openinspect/start.sh.", name)
	case len(value) > longestVariable:
		return refuse("The value of %s is too long: it has %d bytes, and %d are the most.", name, len(value), longestVariable)
	case kind != PlainVariable && kind != SecretInside && kind != SecretOutside:
		return refuse("Say what %s is: a variable, a secret, or a secret for outside.", name)
	case kind != PlainVariable && len(strings.TrimSpace(value)) < sandbox.ShortestSecret:
		return refuse("A secret needs %d characters at least: a shorter one cannot be told from ordinary text, "+
			"so that nobody could keep it out of what people see. If it is not secret, set it as a variable.", sandbox.ShortestSecret)
	}
	return nil
}

// sealVariable is the purpose of a sealed value: one that is copied to another
// row does not open.
func sealVariable(repository, name string) string {
	return "variables.sealed:" + repository + ":" + name
}

// SetVariable sets a variable or secret of a repository, or for ForAll, as an
// administrator. A *Problem says what is wrong with it.
func (e *Engine) SetVariable(ctx context.Context, by uuid.UUID, repository, name, value string, kind VariableKind) error {
	name = strings.TrimSpace(name)
	if err := checkVariable(name, value, kind); err != nil {
		return err
	}
	var sealed []byte
	what := "set the variable "
	if kind != PlainVariable {
		what, sealed, value = "set the secret ", e.cfg.Seal.Seal(sealVariable(repository, name), []byte(value)), ""
	}
	return e.changeSettings(ctx, by, repository, what+name, func(t *tx) error {
		if err := t.retireSecret(ctx, repository, name); err != nil {
			return err
		}
		_, err := t.ExecContext(ctx, `
			insert into variables (repository, name, secret, outside, value, sealed, set_by) values ($1, $2, $3, $4, $5, $6, $7)
			on conflict (repository, name) do update set secret = excluded.secret, outside = excluded.outside,
				value = excluded.value, sealed = excluded.sealed, set_by = excluded.set_by, set_at = now()`,
			repository, name, kind != PlainVariable, kind == SecretOutside, value, sealed, by)
		if err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
		var count int
		if err := t.GetContext(ctx, &count, `select count(*) from variables where repository = $1`, repository); err != nil {
			return fmt.Errorf("counting variables: %w", err)
		}
		if count > mostVariables {
			return &Problem{Code: "bad_variable", Text: fmt.Sprintf("There are %d variables and secrets already, which is the most: remove one first.", mostVariables)}
		}
		return nil
	})
}

// RemoveVariable removes a variable or secret as an administrator. One that is not
// there is no error.
func (e *Engine) RemoveVariable(ctx context.Context, by uuid.UUID, repository, name string) error {
	return e.changeSettings(ctx, by, repository, "removed "+storable(shorten(name, longestName)), func(t *tx) error {
		if err := t.retireSecret(ctx, repository, name); err != nil {
			return err
		}
		res, err := t.ExecContext(ctx, `delete from variables where repository = $1 and name = $2`, repository, storable(name))
		if err != nil {
			return fmt.Errorf("removing %s: %w", name, err)
		}
		there, err := affected(res)
		if err == nil && !there {
			return errNothingChanged
		}
		return err
	})
}

// retireSecret keeps the value that a secret has now for the scrubber alone.
func (t *tx) retireSecret(ctx context.Context, repository, name string) error {
	_, err := t.ExecContext(ctx, `
		with forgotten as (delete from old_secrets where ended_at < now() - make_interval(secs => $3))
		insert into old_secrets (repository, name, sealed)
		select repository, name, sealed from variables where repository = $1 and name = $2 and secret`,
		repository, storable(name), seconds(keepOldSecrets))
	if err != nil {
		return fmt.Errorf("keeping the old value of %s from being shown: %w", name, err)
	}
	return nil
}

// Variables reads what is set for one repository, or for ForAll, by name.
func (e *Engine) Variables(ctx context.Context, repository string) ([]Variable, error) {
	var list []Variable
	err := e.db.SelectContext(ctx, &list, `select v.name, v.value, p.name as by, v.set_at,
			case when v.outside then 'outside' when v.secret then 'secret' else 'variable' end as kind
		from variables v join people p on p.id = v.set_by where v.repository = $1 order by v.name`, repository)
	if err != nil {
		return nil, fmt.Errorf("reading the variables of %q: %w", repository, err)
	}
	return list, nil
}

// surroundings are the variables that a sandbox of a repository gets.
type surroundings struct {
	env     map[string]string // variables and secrets
	outside map[string]string // secrets that no sandbox gets
	scrub   []string          // what may not be shown: values of secrets, and those they had before
}

// secretsOf returns the environment that sandboxes of a repository get, and the
// values that have to be scrubbed from whatever comes out of them. A *Problem says
// why no sandbox can be started; the values are those that can be read, then too.
func (e *Engine) secretsOf(ctx context.Context, repository string) (env map[string]string, scrub []string, err error) {
	s, err := e.surroundings(ctx, repository)
	return s.env, s.scrub, err
}

// surroundings reads the variables of a repository; they beat those for all. The
// environment names the secrets in sandbox.EnvSecrets.
func (e *Engine) surroundings(ctx context.Context, repository string) (surroundings, error) {
	s := surroundings{env: map[string]string{}, outside: map[string]string{}}
	var rows []struct {
		Repository string `db:"repository"`
		Name       string `db:"name"`
		Secret     bool   `db:"secret"`
		Outside    bool   `db:"outside"`
		Old        bool   `db:"old"`
		Value      string `db:"value"`
		Sealed     []byte `db:"sealed"`
	}
	err := e.db.SelectContext(ctx, &rows, `
		select repository, name, secret, outside, false as old, value, sealed from variables where repository in ($1, $2)
		union all
		select repository, name, true, false, true, '', sealed from old_secrets where repository in ($1, $2)
			and ended_at > now() - make_interval(secs => $3)
		order by repository`, ForAll, repository, seconds(keepOldSecrets)) // '' comes first
	if err != nil {
		return s, fmt.Errorf("reading the variables of %s: %w", repository, err)
	}
	secret := map[string]bool{}
	var unreadable error
	for _, row := range rows {
		value := row.Value
		if row.Secret {
			plain, err := e.cfg.Seal.Open(sealVariable(row.Repository, row.Name), row.Sealed)
			if err != nil && !row.Old {
				unreadable = &Problem{Code: "unreadable_secret", Text: fmt.Sprintf("The secret %s cannot be read any more, "+
					"because SECRET_KEY was changed after it was set: an administrator has to set it again.", row.Name), Err: err}
			}
			if err != nil {
				continue // of an old one too, what can be read is scrubbed
			}
			value = string(plain)
			s.scrub = append(s.scrub, value)
		}
		if row.Old {
			continue
		}
		delete(s.env, row.Name)
		delete(s.outside, row.Name)
		into := s.env
		if row.Outside {
			into = s.outside
		}
		into[row.Name], secret[row.Name] = value, row.Secret && !row.Outside
	}
	maps.DeleteFunc(secret, func(_ string, is bool) bool { return !is })
	if names := slices.Sorted(maps.Keys(secret)); len(names) > 0 {
		s.env[sandbox.EnvSecrets] = strings.Join(names, ",")
	}
	if unreadable != nil {
		return s, unreadable
	}
	return s, s.fits()
}

// fits says whether a sandbox can be given all of it.
func (s surroundings) fits() error {
	size := 0
	for name, value := range s.env {
		size += len(name) + len(value) + 2
	}
	if size > allVariables {
		return &Problem{Code: "too_many_variables", Text: fmt.Sprintf(
			"The variables and secrets have %d bytes together, and %d are the most: remove some, or keep the long ones somewhere else.", size, allVariables)}
	}
	return nil
}

// errNothingChanged ends a change of settings that changes nothing: it is not
// recorded and no error.
var errNothingChanged = errors.New("nothing changed")

// changeSettings makes a change as an administrator and records who made it.
func (e *Engine) changeSettings(ctx context.Context, by uuid.UUID, repository, what string, change func(*tx) error) error {
	err := e.transact(ctx, func(t *tx) error {
		if err := t.mayAdminister(ctx, by); err != nil {
			return err
		}
		if repository != ForAll {
			var known bool
			err := t.GetContext(ctx, &known, `select exists (select from repositories where name = $1)`, storable(repository))
			if err != nil {
				return fmt.Errorf("looking for %s: %w", repository, err)
			}
			if !known {
				return &Problem{Code: "no_repository", Text: "There is no such repository here: the GitHub App has to be installed on it."}
			}
		}
		if err := change(t); err != nil {
			return err
		}
		if err := t.endSparesOf(ctx, repository); err != nil {
			return err
		}
		_, err := t.ExecContext(ctx, `insert into setting_changes (repository, what, person) values ($1, $2, $3)`, repository, what, by)
		if err != nil {
			return fmt.Errorf("recording a change of settings: %w", err)
		}
		return nil
	})
	if errors.Is(err, errNothingChanged) {
		return nil
	}
	return err
}

// endSparesOf ends the spares that were made ready with settings that are no more.
func (t *tx) endSparesOf(ctx context.Context, repository string) error {
	var ids []string
	err := t.SelectContext(ctx, &ids, `select id from spares where state in ('starting', 'booting', 'ready') and $1 in ('', repository)
		order by id for no key update`, repository)
	if err != nil {
		return fmt.Errorf("looking for spare sandboxes of %q: %w", repository, err)
	}
	for _, id := range ids {
		if err := t.endSpare(ctx, id, spareEnded, ""); err != nil {
			return err
		}
	}
	return nil
}

// mayAdminister refuses who is no administrator.
func (t *tx) mayAdminister(ctx context.Context, person uuid.UUID) error {
	var admin bool
	if err := t.GetContext(ctx, &admin, `select admin from people where id = $1`, person); err != nil {
		return fmt.Errorf("reading whether somebody is an administrator: %w", notFound(err))
	}
	if !admin {
		return &Problem{Code: "not_admin", Text: "Only administrators may do that: ask one of them, or who runs this to add you to ADMINS."}
	}
	return nil
}

// nameAdministrators makes administrators of those whom the configuration names
// by their Slack ids, and of nobody else.
func (e *Engine) nameAdministrators(ctx context.Context) error {
	_, err := e.db.ExecContext(ctx, `update people set admin = not admin
		where admin <> coalesce(slack_user = any($1), false)`, pq.Array(e.cfg.Admins))
	if err != nil {
		return fmt.Errorf("naming the administrators: %w", err)
	}
	return nil
}

// SettingChange is one change of the settings: names, never values.
type SettingChange struct {
	What string    `db:"what"` // e.g. "set the secret NPM_TOKEN"
	By   string    `db:"by"`
	At   time.Time `db:"at"`
}

// SettingChanges reads the newest changes for one repository, or for ForAll.
func (e *Engine) SettingChanges(ctx context.Context, repository string, limit int) ([]SettingChange, error) {
	var list []SettingChange
	err := e.db.SelectContext(ctx, &list, `select c.what, p.name as by, c.at
		from setting_changes c join people p on p.id = c.person where c.repository = $1 order by c.id desc limit $2`, repository, limit)
	if err != nil {
		return nil, fmt.Errorf("reading who changed the settings of %q: %w", repository, err)
	}
	return list, nil
}
