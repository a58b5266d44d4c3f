package slack

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// call calls a method over HTTP with the token in the header and returns the
// answer.
func (b *bench) call(t *testing.T, method, token string, a args) (map[string]any, *http.Response) {
	t.Helper()
	form := url.Values{}
	for k, v := range a {
		form.Set(k, v)
	}
	req, err := http.NewRequestWithContext(within(t), http.MethodPost, b.url+"/api/"+method, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return do(t, req)
}

func do(t *testing.T, req *http.Request) (map[string]any, *http.Response) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		t.Fatalf("%s: %v", req.URL.Path, err)
	}
	return out, res
}

// callError is the answer's error code, "" if it is ok.
func (b *bench) callError(t *testing.T, method, token string, a args) string {
	t.Helper()
	out, _ := b.call(t, method, token, a)
	code, _ := out["error"].(string)
	if (out["ok"] == true) != (code == "") {
		t.Errorf("%s answered %v", method, out)
	}
	return code
}
