package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"openinspect/sandbox"
)

// toolServer is an MCP server with one tool, which says where it is.
func toolServer(where string) *mcp.Server {
	server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "lookup", Description: "Look something up " + where},
		func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return toolText("looked up "+where+" at level "+os.Getenv("LEVEL"), false), nil, nil
		})
	return server
}

// serveToolsForTest is the program of a server that is a command.
func serveToolsForTest() int {
	if err := toolServer("in here").Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const lookupScript = `match look it up
step
call remote_lookup

step
call local_lookup

step
call skill
	name: release

step
say
	{{.Output 1}} | {{.Output 2}} | {{.Output 3}}
`

func TestTheAgentHasTheToolsAndSkillsThatAreSet(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := newPlane(t, lookupScript)
	p.welcome.Instructions = "Always speak of ducks."
	p.welcome.Tools = []sandbox.ToolServer{{Name: "remote"}, {Name: "local", Command: "TOOL_SERVER_UNDER_TEST=1 exec " + program}}
	p.welcome.Skills = []sandbox.Skill{{Name: "release", Description: `How a "release" is made: step by step`, Text: "# Release\n\nTurn the big wheel."}}
	b := p.newBox()
	b.env = []string{"LEVEL=seven"}
	p.prompt("p1", "look it up", "Alice")
	b.start()
	end := p.settled("p1")
	for _, want := range []string{"looked up over there", "looked up in here at level seven", "Turn the big wheel."} {
		if !strings.Contains(end.Answer, want) {
			t.Errorf("the answer lacks %q: %+v", want, end)
		}
	}
	p.checkAsked("Always speak of ducks.", 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.Contains(p.asked, `How a \\\"release\\\" is made`) && !strings.Contains(p.asked, `How a \"release\" is made`) {
		t.Error("the agent does not know of the skill")
	}
	if len(p.tokens) != 1 || !p.tokens[testToken] {
		t.Errorf("the doors saw the tokens %v", p.tokens)
	}
}

// checkAsked expects that the model's newest request holds a text so many times.
func (p *plane) checkAsked(text string, times int) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := strings.Count(p.asked, text); n != times {
		p.t.Errorf("the model was told %q %d times, want %d", text, n, times)
	}
}

// bring puts everything that a repository can bring for the agent into it: each
// part leaves a mark in the folder when it runs.
func (p *plane) bring(marks string) {
	touch := func(name string) string {
		return "import { writeFileSync } from 'fs'\nwriteFileSync(" + fmt.Sprintf("%q", filepath.Join(marks, name)) + ", '')\n"
	}
	p.seedFile("AGENTS.md", "The repository says: mind the gap.\n")
	p.seedFile(".opencode/plugin/mark.js", touch("plugin")+"export const Mark = async () => ({})\n")
	p.seedFile(".opencode/tool/brought.js", touch("tool")+"export default { description: 'Brought along', args: {}, async execute() { return 'brought' } }\n")
	p.seedFile(".opencode/skill/brought/SKILL.md", "---\nname: brought\ndescription: A skill that came along\n---\n\nText.\n")
	p.seedFile("named.js", touch("named")+"export const Named = async () => ({})\n")
	// OpenCode writes the schema into a file that does not name it.
	p.seedFile(".opencode/opencode.json", `{"$schema": "https://opencode.ai/config.json", "mcp": {"theirs": {"type": "local", "command": ["touch", "`+filepath.Join(marks, "folder-mcp")+`"], "enabled": true}}}`)
	p.seedFile("opencode.json", `{"$schema": "https://opencode.ai/config.json", "plugin": ["./named.js"], "instructions": ["RULES.md"], "mcp": {"ours": {"type": "local", "command": ["touch", "`+filepath.Join(marks, "mcp")+`"], "enabled": true}}}`)
	p.seedFile("RULES.md", "The repository rules: stay on the path.\n")
}

func ran(t *testing.T, marks string) string {
	t.Helper()
	entries, err := os.ReadDir(marks)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

const greetScript = "match say hello\nstep\nsay\n\tHello.\n"

func TestWhatARepositoryBringsDoesNotRunUnlessAllowed(t *testing.T) {
	t.Parallel()
	p, marks := newPlane(t, greetScript), t.TempDir()
	p.bring(marks)
	b := p.newBox()
	p.prompt("p1", "say hello", "Alice")
	b.start()
	if end := p.settled("p1"); end.Answer != "Hello." {
		t.Fatalf("settled as %+v", end)
	}
	if got := ran(t, marks); got != "" {
		t.Errorf("of the repository ran: %s", got)
	}
	p.checkAsked("mind the gap", 1)
	for _, theirs := range []string{"stay on the path", "Brought along", "A skill that came along"} {
		p.checkAsked(theirs, 0)
	}
}

func TestWhatARepositoryBringsRunsIfAllowed(t *testing.T) {
	t.Parallel()
	p, marks := newPlane(t, greetScript), t.TempDir()
	p.bring(marks)
	p.welcome.Project = true
	b := p.newBox()
	p.prompt("p1", "say hello", "Alice")
	b.start()
	if end := p.settled("p1"); end.Answer != "Hello." || end.Files != 0 {
		t.Fatalf("settled as %+v", end)
	}
	if got := ran(t, marks); got != "folder-mcp mcp named plugin tool" {
		t.Errorf("of the repository ran: %s", got)
	}
	for _, theirs := range []string{"mind the gap", "stay on the path", "Brought along"} {
		p.checkAsked(theirs, 1)
	}
}
