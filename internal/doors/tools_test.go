package doors

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"pgregory.net/rapid"
)

const toolSecret = "lin_api_0123456789"

// toolServers knows one server, at linear.
type toolServers struct{ url string }

func (s toolServers) ToolServer(_ context.Context, a Access, name string) (ToolServer, error) {
	switch {
	case name == "broken":
		return ToolServer{}, errors.New("the database is away")
	case name != "linear" || a.Repository != access.Repository:
		return ToolServer{}, &Refusal{"There is no server of tools of that name (any more)."}
	}
	return ToolServer{URL: s.url, Header: http.Header{"Authorization": {"Bearer " + toolSecret}}, Secret: []string{toolSecret}}, nil
}

// remoteTools is an MCP server that wants the secret and repeats the headers it got.
func remoteTools(t *testing.T) string {
	t.Helper()
	server := mcp.NewServer(&mcp.Implementation{Name: "remote", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "repeat", Description: "Repeat the headers"},
		func(_ context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
			var text strings.Builder
			if err := r.Extra.Header.Write(&text); err != nil {
				return nil, nil, err
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text.String()}}}, nil, nil
		})
	tools := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true})
	remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/mcp":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case r.Header.Get("Authorization") != "Bearer "+toolSecret:
			http.Error(w, "wrong key", http.StatusUnauthorized)
		default:
			tools.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(remote.Close)
	return remote.URL
}

// serveTools serves the tools door in front of a remote server.
func serveTools(t *testing.T, remote string) string {
	transport := &http.Transport{DisableKeepAlives: true}
	return serveDoors(t, Config{Tools: NewTools(ToolsConfig{Servers: toolServers{remote}, Log: quiet, Transport: transport})})
}

func TestAnAgentUsesToolsWhoseKeyItNeverSees(t *testing.T) { // I7
	url := serveTools(t, remoteTools(t)+"/mcp")
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: url + "/mcp/linear",
		HTTPClient: sandboxClient(sandboxToken), DisableStandaloneSSE: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "repeat"})
	if err != nil {
		t.Fatal(err)
	}
	said := result.Content[0].(*mcp.TextContent).Text
	if !strings.Contains(said, "Authorization: Bearer [key]") || strings.Contains(said, toolSecret) || strings.Contains(said, "Sandbox-Token") {
		t.Errorf("the tool says %q", said)
	}
}

func TestTheToolsDoorRefusesWithASentence(t *testing.T) {
	remote := remoteTools(t)
	url := serveTools(t, remote+"/mcp")
	moved := serveTools(t, remote+"/old")
	away := serveTools(t, "http://127.0.0.1:1/mcp")
	for _, c := range []struct {
		token, method, url, says string
		status                   int
	}{
		{sandboxToken, "POST", url + "/mcp/other", "no server of tools", 404},
		{sandboxToken, "POST", url + "/mcp/linear/../../etc", "no server of tools", 404},
		{sandboxToken, "POST", url + "/mcp/broken", "try again", 503},
		{sandboxToken, "PUT", url + "/mcp/linear", "POST, GET and DELETE", 405},
		{waitingToken, "POST", url + "/mcp/linear", "works for no session", 403},
		{"nobody", "POST", url + "/mcp/linear", "credential is not known", 401},
		{sandboxToken, "POST", moved + "/mcp/linear", "has moved", 502},
		{sandboxToken, "POST", away + "/mcp/linear", "cannot be reached", 502},
	} {
		res, text := send(t, sandboxClient(c.token), c.method, c.url, "{}")
		if res.StatusCode != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s %s answers %d: %s", c.method, c.url, res.StatusCode, text)
		}
	}
}

// However a stream comes, no secret passes, and all the rest does.
func TestASecretInAnAnswerDoesNotPass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "lin_", "lin_api_", toolSecret, "0123", "\n"}), 0, 10).Draw(t, "pieces")
		text := strings.Join(pieces, "")
		var out bytes.Buffer
		if err := copyWithout(&out, iotest.OneByteReader(strings.NewReader(text)), []string{toolSecret}); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(text, toolSecret, "[key]"); out.String() != want {
			t.Fatalf("%q became %q, want %q", text, out.String(), want)
		}
	})
}
