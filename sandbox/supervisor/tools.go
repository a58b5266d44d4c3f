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
// Each tool has a file of its own, tool_NAME.go, with its arguments and what the
// agent reads of it; its other half is in package sessions.

// callTimeout is shorter than OpenCode's own patience with a tool, so that the
// agent gets a sentence and not a broken connection.
const callTimeout = toolTimeout - 30*time.Second

// toolPrefix is what OpenCode puts before their names.
const toolPrefix = "openinspect_"

func (s *supervisor) newTools() http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "openinspect", Version: "1"}, nil)
	server.AddReceivingMiddleware(s.afterSync)
	offer(s, server, "create_pull_request", createPullRequestHelp, offered[createPullRequestArgs]{before: publish[createPullRequestArgs]})
	offer(s, server, "update_pull_request", updatePullRequestHelp, offered[updatePullRequestArgs]{before: publish[updatePullRequestArgs]})
	offer(s, server, "get_checks", getChecksHelp, offered[getChecksArgs]{})
	offer(s, server, "get_review", getReviewHelp, offered[getReviewArgs]{})
	offer(s, server, "reply_to_review", replyToReviewHelp, offered[replyToReviewArgs]{})
	offer(s, server, "ask", askHelp, offered[askArgs]{after: (*turn).asking})
	offer(s, server, "post_update", postUpdateHelp, offered[postUpdateArgs]{})
	offer(s, server, "upload_artifact", uploadArtifactHelp, offered[uploadArtifactArgs]{before: (*supervisor).uploadFile})
	offer(s, server, "start_session", startSessionHelp, offered[startSessionArgs]{})
	offer(s, server, "get_session", getSessionHelp, offered[getSessionArgs]{})
	offer(s, server, "screenshot", screenshotHelp, offered[screenshotArgs]{before: (*supervisor).shoot})
	offer(s, server, "set_title", setTitleHelp, offered[setTitleArgs]{})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
}

// offered is what the supervisor itself does for a tool with arguments A.
type offered[A any] struct {
	// before does what has to be done in the box first, and returns what the
	// control plane is sent. A sentence says that it could not be done, and the call
	// is not made.
	before func(s *supervisor, ctx context.Context, t *turn, args A) (send any, refused string)
	// after is told of a call that succeeded.
	after func(t *turn)
}

// offer adds a tool to the server. Its calls are the control plane's.
func offer[A any](s *supervisor, server *mcp.Server, name, help string, o offered[A]) {
	mcp.AddTool(server, &mcp.Tool{Name: name, Description: help},
		func(ctx context.Context, _ *mcp.CallToolRequest, args A) (*mcp.CallToolResult, any, error) {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			s.mu.Lock()
			t := s.running
			s.mu.Unlock()
			if t == nil {
				return toolText("No request is being worked on, so nothing is done.", true), nil, nil
			}
			t.waitShown(ctx, toolPrefix+name)
			var send any = args
			if o.before != nil {
				refused := ""
				if send, refused = o.before(s, ctx, t, args); refused != "" {
					return toolText(refused, true), nil, nil
				}
			}
			text, failed := s.call(ctx, t, name, send)
			if noted, has := send.(interface{ note() string }); has && !failed {
				text += noted.note()
			}
			if o.after != nil && !failed {
				o.after(t)
			}
			return toolText(text, failed), nil, nil
		})
}

// call asks the control plane.
func (s *supervisor) call(ctx context.Context, t *turn, tool string, args any) (text string, failed bool) {
	data, err := json.Marshal(args)
	if err != nil {
		return "The arguments cannot be passed on: " + err.Error(), true
	}
	result, err := s.bridge.Call(ctx, sandbox.Call{ID: newID("call-"), Prompt: t.prompt.ID, Tool: tool, Args: data})
	if err != nil {
		return "The control plane did not answer; try again later. (" + err.Error() + ")", true
	}
	return result.Text, result.Error
}

func toolText(text string, isError bool) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}, IsError: isError}
}
