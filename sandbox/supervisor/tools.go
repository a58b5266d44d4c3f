package supervisor

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"openinspect/sandbox"
)

// The agent's tools, served to OpenCode by MCP over the gateway. What they do
// outside the box, the control plane does: it gets each call over the bridge.

// pullRequestArgs are the arguments of create_pull_request.
type pullRequestArgs struct {
	Title string `json:"title" jsonschema:"the pull request's title, one line"`
	Body  string `json:"body" jsonschema:"the description in Markdown: what changed and why, and how it was checked"`
	Draft bool   `json:"draft,omitempty" jsonschema:"open it as a draft"`
}

const pullRequestHelp = "Commit and push all changes and open a pull request for them, as the person who asked. " +
	"If one is open for this session already, it is updated. " +
	"Use this instead of any command-line program: no other credential is in the sandbox."

// callTimeout is shorter than OpenCode's own patience with a tool, so that the
// agent gets a sentence and not a broken connection.
const callTimeout = toolTimeout - 30*time.Second

func (s *supervisor) newTools() http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "openinspect", Version: "1"}, nil)
	server.AddReceivingMiddleware(s.afterSync)
	mcp.AddTool(server, &mcp.Tool{Name: "create_pull_request", Description: pullRequestHelp}, s.createPullRequest)
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
}

// createPullRequest commits and pushes first, so that the pull request holds
// everything that the agent did so far.
func (s *supervisor) createPullRequest(ctx context.Context, _ *mcp.CallToolRequest, args pullRequestArgs) (*mcp.CallToolResult, any, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s.mu.Lock()
	t := s.running
	s.mu.Unlock()
	if t == nil {
		return toolText("No prompt is running, so there is nobody to open a pull request for.", true), nil, nil
	}
	if err := s.commit(ctx, t); err != nil {
		return toolText("The changes could not be committed: "+err.Error(), true), nil, nil
	}
	if push := s.push(ctx, t); push.Error != "" {
		return toolText(push.Error, true), nil, nil
	}
	data, err := json.Marshal(args)
	if err != nil {
		return nil, nil, err
	}
	result, err := s.bridge.Call(ctx, sandbox.Call{ID: newID("call-"), Prompt: t.prompt.ID, Tool: "create_pull_request", Args: data})
	if err != nil {
		return toolText("The control plane did not answer. The branch is pushed; try again later. ("+err.Error()+")", true), nil, nil
	}
	return toolText(result.Text, result.Error), nil, nil
}

func toolText(text string, isError bool) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}, IsError: isError}
}
