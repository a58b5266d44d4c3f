package web

import (
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// appoint makes an administrator of somebody, as ADMINS does.
func (b *browser) appoint() *browser {
	b.t.Helper()
	if _, err := b.rig.DB.Exec(`update people set admin = true where slack_user = $1`, b.user.ID); err != nil {
		b.t.Fatal(err)
	}
	return b
}

// fill writes into a field as a person does, so that the page notices.
func (t *tab) fill(selector, text string) {
	t.t.Helper()
	t.do(chromedp.Focus(chromedp.CSS(selector)), chromedp.SendKeys(chromedp.CSS(selector), text))
}

func (t *tab) click(selector string) {
	t.t.Helper()
	t.do(chromedp.Click(chromedp.CSS(selector)))
}

func TestAnAdministratorSetsWhatARepositoryNeeds(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice").appoint()
	page := alice.open("/repositories/acme/greeter")
	page.fill("#variable", "NPM_TOKEN")
	page.fill("#value", "a-value-nobody-sees")
	page.fill("#instructions", "Write tests first.") // which the next step must not lose
	page.click("#set-variable [type=submit]")
	page.until(`document.querySelector('#variables').textContent.includes('NPM_TOKEN')`)
	page.fill("#mem_mib", "8192")
	page.do(chromedp.SetValue(chromedp.CSS("#images"), "no"), chromedp.SetValue(chromedp.CSS("#spares"), "no"))
	page.click("[data-add=port]")
	page.fill("[data-rows=ports] [data-field=port]", "3000")
	page.fill("[data-rows=ports] [data-field=label]", "Shop")
	page.click("[data-add=tool]")
	page.fill("[data-rows=tools] [data-field=name]", "linear")
	page.fill("[data-rows=tools] [data-field=target]", "https://mcp.linear.app/mcp")
	page.fill("[data-rows=tools] [data-field=headers]", "Authorization: Bearer ${NPM_TOKEN}")
	page.click("#change-settings [type=submit]")
	page.until(`document.querySelector('.save [role=status]').textContent === 'Saved.'`)
	page.do(chromedp.Reload())
	page.until(`document.querySelector('#mem_mib').value === '8192' && document.querySelector('#instructions').value === 'Write tests first.' &&
		document.querySelector('#images').value === 'no' && document.querySelector('#spares').value === 'no'`)
	html := alice.page("/repositories/acme/greeter")
	for _, want := range []string{"NPM_TOKEN", "Secret", "set by Alice Ahmed", `value="Shop"`, "https://mcp.linear.app/mcp",
		"CPU and regions are kept, and have no effect", "set the secret NPM_TOKEN", "changed memory, instructions, ports, whether there are images, whether there are warm sandboxes, tools"} {
		if !strings.Contains(html, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if strings.Contains(html, "nobody-sees") {
		t.Error("the page shows the secret's value")
	}
	var got struct {
		Variables []struct{ Name, Value string }
	}
	if alice.call("GET", "/api/repositories/acme/greeter", "", &got); len(got.Variables) != 1 || got.Variables[0].Value != "" {
		t.Errorf("the API says %+v", got)
	}
	if said := page.said(); len(said) > 0 {
		t.Errorf("the console says %q", said)
	}
}

func TestAMistakeInSettingsIsSaidAndLosesNothing(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice").appoint()
	page := alice.open("/settings")
	page.fill("#variable", "npm-token")
	page.fill("#value", "a-value-nobody-sees")
	page.click("#set-variable [type=submit]")
	page.until(`document.querySelector('#set-variable .form-error').textContent.includes('capital letters')`)
	if left := page.eval(`document.querySelector('#value').value`); left != "a-value-nobody-sees" {
		t.Errorf("what was written became %q", left)
	}
	page.fill("#instructions", "Be brief.")
	if status := alice.call("PUT", "/api/settings", `{"version":0,"settings":{"cpu":2}}`, nil); status != http.StatusOK {
		t.Fatalf("another tab's change answers %d", status)
	}
	page.click("#change-settings [type=submit]")
	page.until(`document.querySelector('.save .form-error').textContent.includes('changed these settings meanwhile')`)
	if left := page.eval(`document.querySelector('#instructions').value`); left != "Be brief." {
		t.Errorf("what was written became %q", left)
	}
}

func TestOnlyAdministratorsChangeSettings(t *testing.T) {
	r := newRig(t)
	bob := r.signIn(t, "bob")
	for _, c := range []struct{ method, path, body string }{
		{"PUT", "/api/settings", `{"version":0,"settings":{"cpu":2}}`},
		{"PUT", "/api/repositories/acme/greeter", `{"version":0,"settings":{"project":"yes"}}`},
		{"PUT", "/api/repositories/acme/greeter/variables/KEY", `{"value":"x","kind":"variable"}`},
		{"DELETE", "/api/settings/variables/KEY", ``},
	} {
		var got struct{ Error struct{ Code, Text string } }
		if status := bob.call(c.method, c.path, c.body, &got); status != http.StatusForbidden || got.Error.Code != "not_admin" {
			t.Errorf("%s %s answers %d: %+v", c.method, c.path, status, got)
		}
		if status := bob.call(c.method, c.path, c.body, nil, "Sec-Fetch-Site", "cross-site"); status != http.StatusForbidden {
			t.Errorf("%s %s from another site answers %d", c.method, c.path, status)
		}
	}
	if page := bob.page("/repositories/acme/greeter"); !strings.Contains(page, "Only administrators change this") || strings.Contains(page, "set-variable") {
		t.Error("the page offers changes to somebody who cannot make them")
	}
	if status := bob.call("GET", "/api/repositories/acme/nothing", "", nil); status != http.StatusNotFound {
		t.Errorf("a repository that is not there answers %d", status)
	}
}
