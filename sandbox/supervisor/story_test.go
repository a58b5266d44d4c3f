package supervisor

import (
	"strings"
	"testing"

	"openinspect/sandbox"
)

const jobScript = `match fix the greeting
step
say
	I will fix it.
call bash
	description: Fix the greeting
	command: sed -i s/helo/hello/ greet.go && echo fixed && echo data > new.txt && echo x > ignored.txt

step
call create_pull_request
	title: Fix the greeting
	body: It was misspelled.

step
say
	The greeting is fixed.
`

func TestTheMainJobEndsInACommitOfItsAuthorAndAPullRequest(t *testing.T) {
	t.Parallel()
	p := newPlane(t, jobScript)
	b := p.newBox()
	p.prompt("p1", "fix the greeting", "Alice")
	b.start()
	end := p.settled("p1")
	t.Log(p.log())
	if end.Outcome != sandbox.OutcomeCompleted || end.Answer != "The greeting is fixed." || end.Files != 2 {
		t.Errorf("settled as %+v", end)
	}
	show := p.sh(p.remote(), "git log --format='%an <%ae> %cn%n%B' main..inspect/s1")
	for _, want := range []string{
		"Alice <1+alice@users.noreply.github.com> " + botName,
		"Session: https://inspect.example/s/s1", "Co-authored-by: " + botName + " <" + botEmail + ">",
	} {
		if !strings.Contains(show, want) {
			t.Errorf("the branch's log lacks %q:\n%s", want, show)
		}
	}
}
