package sessions

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
)

// Settings are what administrators set for a repository, or for ForAll, besides
// variables. A zero value leaves a thing as it is for all, or as the configuration
// and the provider have it.
type Settings struct {
	CPU             float64  `json:"cpu,omitempty"` // cores of a sandbox
	MemMiB          int      `json:"mem_mib,omitempty"`
	Regions         []string `json:"regions,omitempty"`          // where sandboxes may run, in the provider's own names
	LifetimeMinutes int      `json:"lifetime_minutes,omitempty"` // of one sandbox; a session goes on in the next
	PromptMinutes   int      `json:"prompt_minutes,omitempty"`   // a prompt may run so long
	SetupMinutes    int      `json:"setup_minutes,omitempty"`    // a repository's script may run so long

	Instructions string `json:"instructions,omitempty"` // added to the agent's
	// Project says whether what the repository brings for the agent in .opencode and
	// opencode.json runs: Yes or No. Empty is no, where nothing else is set for all.
	Project string `json:"project,omitempty"`

	// Images says whether the repository gets an image, Spares whether sandboxes are made
	// ready before anybody has asked: Yes or No. Empty is yes, where nothing else is set for all.
	Images string `json:"images,omitempty"`
	Spares string `json:"spares,omitempty"`

	Ports  []Port      `json:"ports,omitempty"`  // what sandboxes serve that people may open
	Tools  []MCPServer `json:"tools,omitempty"`  // further tools of the agent
	Skills []Skill     `json:"skills,omitempty"` // what the agent can read up on
}

// Values of settings that are switches.
const (
	Yes = "yes"
	No  = "no"
)

// The names of switches in a row of settings.
const (
	switchImages = "images"
	switchSpares = "spares"
)

// switchedOn is an SQL condition: that a switch which is on unless somebody switches
// it off is on for the repository that the SQL expression names: a column with its table.
func switchedOn(name, repository string) string {
	set := func(whose string) string {
		return "(select body ->> '" + name + "' from repository_settings where repository = " + whose + ")"
	}
	return "coalesce(" + set(repository) + ", " + set("'"+ForAll+"'") + ", '" + Yes + "') = '" + Yes + "'"
}

// Port is a port inside sandboxes, on which a program of the repository serves HTTP.
type Port struct {
	Port  int    `json:"port"`
	Label string `json:"label,omitempty"` // what people see
}

// MCPServer is a server of tools: at a URL, or a command that runs inside the sandbox.
type MCPServer struct {
	Name    string            `json:"name"`
	URL     string            `json:"url,omitempty"`
	Headers map[string]string `json:"headers,omitempty"` // for URL; ${NAME} stands for a secret or variable
	Command string            `json:"command,omitempty"` // of sh
}

// Skill is a text that the agent reads when it is about what the description says.
type Skill struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Text        string `json:"text"` // Markdown
}

// Placement says whether the provider of sandboxes heeds Settings.CPU and
// Settings.Regions. They are kept in any case: the provider may change.
func (e *Engine) Placement() bool { return e.cfg.Provider.Caps().Placement }

// ReadSettings returns what is set for one repository, or for ForAll, and the
// version to change it from.
func (e *Engine) ReadSettings(ctx context.Context, repository string) (Settings, int64, error) {
	var row struct {
		Body    []byte `db:"body"`
		Version int64  `db:"version"`
	}
	var s Settings
	err := e.db.GetContext(ctx, &row, `select body, version from repository_settings where repository = $1`, storable(repository))
	if errors.Is(err, sql.ErrNoRows) {
		return s, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(row.Body, &s)
	}
	if err != nil {
		return s, 0, fmt.Errorf("reading the settings of %q: %w", repository, err)
	}
	return s, row.Version, nil
}

// SettingsFor returns what holds for a repository: its own settings, and those for
// all where it has none.
func (e *Engine) SettingsFor(ctx context.Context, repository string) (Settings, error) {
	all, _, err := e.ReadSettings(ctx, ForAll)
	if err != nil {
		return all, err
	}
	own, _, err := e.ReadSettings(ctx, repository)
	return own.over(all), err
}

// over returns settings that beat those for all.
func (s Settings) over(all Settings) Settings {
	merged := Settings{
		CPU: cmp.Or(s.CPU, all.CPU), MemMiB: cmp.Or(s.MemMiB, all.MemMiB), Regions: s.Regions,
		LifetimeMinutes: cmp.Or(s.LifetimeMinutes, all.LifetimeMinutes), PromptMinutes: cmp.Or(s.PromptMinutes, all.PromptMinutes),
		SetupMinutes: cmp.Or(s.SetupMinutes, all.SetupMinutes), Project: cmp.Or(s.Project, all.Project),
		Images: cmp.Or(s.Images, all.Images), Spares: cmp.Or(s.Spares, all.Spares),
		Instructions: strings.TrimSpace(all.Instructions + "\n\n" + s.Instructions),
		Ports:        mergeBy(all.Ports, s.Ports, func(p Port) int { return p.Port }),
		Tools:        mergeBy(all.Tools, s.Tools, func(m MCPServer) string { return m.Name }),
		Skills:       mergeBy(all.Skills, s.Skills, func(k Skill) string { return k.Name }),
	}
	if len(s.Regions) == 0 {
		merged.Regions = all.Regions
	}
	return merged
}

// mergeBy returns the entries for all with the repository's own, which replace those
// of the same name.
func mergeBy[T any, K comparable](all, own []T, name func(T) K) []T {
	merged := slices.DeleteFunc(slices.Clone(all), func(one T) bool {
		return slices.ContainsFunc(own, func(other T) bool { return name(one) == name(other) })
	})
	return append(merged, own...)
}

// ChangeSettings replaces what is set for a repository, or for ForAll, as an
// administrator. version is the one that the change was made from: if somebody
// else changed it meanwhile, a *Problem says so and nothing is lost.
func (e *Engine) ChangeSettings(ctx context.Context, by uuid.UUID, repository string, version int64, s Settings) error {
	if err := s.check(); err != nil {
		return err
	}
	body, err := json.Marshal(s)
	var stored Settings
	if err == nil {
		err = json.Unmarshal(body, &stored) // an empty list is none
	}
	if err != nil {
		return fmt.Errorf("encoding settings: %w", err)
	}
	before, at, err := e.ReadSettings(ctx, repository)
	if err != nil {
		return err
	}
	meanwhile := &Problem{Code: "changed_meanwhile", Text: "Somebody else changed these settings meanwhile. " +
		"Open the page in another tab to see them, and make your change there."}
	if at != version {
		return meanwhile
	}
	changed := stored.differences(before)
	if len(changed) == 0 {
		return nil
	}
	return e.changeSettings(ctx, by, repository, "changed "+strings.Join(changed, ", "), func(t *tx) error {
		res, err := t.ExecContext(ctx, `
			insert into repository_settings (repository, body) select $1, $3 where $2 = 0
			on conflict (repository) do nothing`, repository, version, string(body))
		if err == nil && version > 0 {
			res, err = t.ExecContext(ctx, `update repository_settings set body = $3, version = version + 1
				where repository = $1 and version = $2`, repository, version, string(body))
		}
		if err != nil {
			return fmt.Errorf("changing the settings of %q: %w", repository, err)
		}
		fresh, err := affected(res)
		if err == nil && !fresh {
			return meanwhile
		}
		return err
	})
}

// differences names what is set otherwise than before.
func (s Settings) differences(before Settings) []string {
	var names []string
	for _, field := range []struct {
		name     string
		now, was any
	}{
		{"CPU", s.CPU, before.CPU}, {"memory", s.MemMiB, before.MemMiB}, {"regions", s.Regions, before.Regions},
		{"lifetime", s.LifetimeMinutes, before.LifetimeMinutes}, {"time of a request", s.PromptMinutes, before.PromptMinutes},
		{"time of scripts", s.SetupMinutes, before.SetupMinutes}, {"instructions", s.Instructions, before.Instructions},
		{"what the repository brings", s.Project, before.Project}, {"ports", s.Ports, before.Ports},
		{"whether there are images", s.Images, before.Images}, {"whether there are warm sandboxes", s.Spares, before.Spares},
		{"tools", s.Tools, before.Tools}, {"skills", s.Skills, before.Skills},
	} {
		now, _ := json.Marshal(field.now) // they have been encoded before
		was, _ := json.Marshal(field.was)
		if string(now) != string(was) {
			names = append(names, field.name)
		}
	}
	return names
}

// put gives a box what is set.
func (s Settings) put(spec *sandbox.Spec, longest time.Duration) {
	spec.CPU, spec.MemMiB, spec.Regions = s.CPU, s.MemMiB, s.Regions
	spec.Lifetime = time.Duration(s.LifetimeMinutes) * time.Minute
	if longest > 0 {
		spec.Lifetime = min(spec.Lifetime, longest)
	}
	for _, p := range s.Ports {
		spec.Ports = append(spec.Ports, p.Port)
	}
}
