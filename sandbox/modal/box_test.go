package modal

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"pgregory.net/rapid"

	"openinspect/sandbox"
)

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNamesFitModalAndStayDifferent(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	if got := modalName("inspect-abc-12"); got != "inspect-abc-12" {
		t.Errorf("a name that fits becomes %q", got)
	}
	names := rapid.OneOf(rapid.StringN(1, 200, 200), rapid.StringMatching(`[a-c .-]{1,4}`), rapid.StringMatching(`h\.[a-z-]{0,29}\.[0-9a-f]{32}`),
		rapid.StringMatching(`ap-[A-Za-z0-9]{22}`))
	rapid.Check(t, func(t *rapid.T) {
		a, b := names.Draw(t, "a"), names.Draw(t, "b")
		made := modalName(a)
		if !valid.MatchString(made) || appIDForm.MatchString(made) {
			t.Errorf("%q becomes %q, which Modal does not take", a, made)
		}
		// The names that were made for others are names as well.
		if (made == modalName(b)) != (a == b) || (made == modalName(made)) != (a == made) {
			t.Errorf("%q and %q become %q and %q", a, b, made, modalName(b))
		}
		tags := map[string]string{a: b}
		if diff := cmp.Diff(tags, decodeTags(encodeTags(tags))); diff != "" {
			t.Errorf("tags (-want +got):\n%s", diff)
		}
	})
}

func TestABoxAsksForWhatItIsGivenAndReachesTheControlPlaneAlone(t *testing.T) {
	t.Parallel()
	s := server(t)
	for control, want := range map[string]struct{ domains, cidrs []string }{
		"https://machines.inspect.example.org":     {domains: []string{"machines.inspect.example.org"}},
		"https://machines.inspect.example.org:443": {domains: []string{"machines.inspect.example.org"}},
		"http://192.0.2.7:8081":                    {cidrs: []string{"192.0.2.7/32"}},
		"unix:/run/openinspect/machine.sock":       {},
	} {
		o := options(s)
		o.Control, o.Regions, o.Lifetime = control, []string{"eu"}, 3*time.Hour
		startBox(t, open(t, o), func(s *sandbox.Spec) { s.Name = control })
		all := s.Sandboxes()
		got := all[len(all)-1]
		for _, b := range all {
			if b.Created.After(got.Created) {
				got = b
			}
		}
		if got.Network.Type != "ALLOWLIST" || !cmp.Equal(got.Network.Domains, want.domains) || !cmp.Equal(got.Network.CIDRs, want.cidrs) {
			t.Errorf("%s: the policy is %+v", control, got.Network)
		}
		if got.CPU != 0.5 || got.MemMiB != 512 || got.MemLimitMiB != 512 || got.Timeout != 3*time.Hour || !cmp.Equal(got.Regions, []string{"eu"}) || len(got.Ports) > 0 {
			t.Errorf("by default a box asks for %+v", got)
		}
	}
	p := open(t, options(s))
	startBox(t, p, func(s *sandbox.Spec) {
		s.Name, s.CPU, s.MemMiB, s.Regions, s.Lifetime = "big", 1.5, 1024, []string{"us-east"}, 90*time.Second+time.Millisecond
	})
	calls := s.Calls("SandboxCreateV2")
	d := calls[len(calls)-1].Request.(*pb.SandboxCreateV2Request).GetDefinition()
	r := d.GetResources()
	if r.GetMilliCpu() != 1500 || r.GetMilliCpuMax() != 1500 || r.GetMemoryMb() != 1024 || r.GetMemoryMbMax() != 1024 ||
		d.GetTimeoutSecs() != 91 || !cmp.Equal(d.GetSchedulerPlacement().GetRegions(), []string{"us-east"}) {
		t.Errorf("a box that says what it wants asks for %v", d)
	}
	for _, control := range []string{"", "machines", "ftp://x", "http://machines.example.org", "https://machines.example.org:8443", "https://[2001:db8::1]", "unix:"} {
		o := options(s)
		if o.Control = control; CheckControl(control) == nil {
			t.Errorf("an address is taken that boxes cannot reach: %q", control)
		}
		if _, err := New(o); err == nil {
			t.Errorf("a provider is made whose boxes cannot reach %q", control)
		}
	}
}

func TestABoxThatEndsByItselfSaysWhatItPrintedLast(t *testing.T) {
	t.Parallel()
	p := open(t, options(server(t)))
	b := startBox(t, p, func(s *sandbox.Spec) {
		s.Command = []string{"sh", "-c", "seq 9999 >&2; echo 'openinspect: there is no supervisor' >&2; exit 1"}
	})
	deadline := time.After(time.Minute)
	for {
		_, err := p.Attach(t.Context(), b.ID())
		if errors.Is(err, sandbox.ErrGone) {
			if got := sandbox.LastWords(err); got != "openinspect: there is no supervisor" || len(err.Error()) > 2*maxLastWords {
				t.Errorf("its last words are %q", got)
			}
			return
		}
		select {
		case <-time.After(20 * time.Millisecond): // the pause between two looks
		case <-deadline:
			t.Fatalf("the box did not end: %v", err)
		}
	}
}

func TestAnotherReplicaFindsTheBoxesOfThisOne(t *testing.T) {
	t.Parallel()
	s := server(t)
	one, two := open(t, options(s)), open(t, options(s))
	o := options(s)
	o.App = "another-deployment"
	stranger := open(t, o)
	b := startBox(t, one, func(s *sandbox.Spec) { s.Name = "a name with spaces" })
	want, err := b.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := func(p *Provider) (all []sandbox.Info) {
		for info, err := range p.List(t.Context(), map[string]string{"session": "s1"}) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info)
		}
		return all
	}
	if diff := cmp.Diff([]sandbox.Info{want}, found(two)); diff != "" || want.Name != "a name with spaces" {
		t.Errorf("the other replica's boxes (-want +got):\n%s", diff)
	}
	if got := found(stranger); len(got) > 0 {
		t.Errorf("another deployment sees %+v", got)
	}
	if _, err := two.Start(t.Context(), sandbox.Spec{Name: want.Name, Command: []string{"true"}}); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("the other replica starts a box of the same name: %v", err)
	}
	attached, err := two.Attach(t.Context(), b.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := attached.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"true"}}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("a command in a box that the other replica killed: %v", err)
	}
}

func TestTheMainProgramsEnvironmentIsItsOwn(t *testing.T) {
	t.Parallel()
	p := open(t, options(server(t)))
	secret := "it's \"$HOME\" `x` \\ \n end"
	b := startBox(t, p, func(s *sandbox.Spec) {
		s.Env = map[string]string{"SECRET": secret, "LONG": strings.Repeat("'", maxVariable), "MORE": strings.Repeat("x", maxVariable), "name": "n", "child": "c", "parked": "p"}
		s.Command = []string{"sh", "-c", `printf %s "$SECRET" >said; env >all; echo "${#LONG} ${#MORE} $name $child $parked $USER" >more; touch ready; exec sleep 600`}
	})
	run(t, b, "until [ -e ready ]; do sleep 0.01; done")
	if got := run(t, b, "cat said"); got != secret {
		t.Errorf("the main program got %q, want %q", got, secret)
	}
	if got, want := run(t, b, "cat more"), fmt.Sprintf("%d %d n c p agent", maxVariable, maxVariable); got != want {
		t.Errorf("of long variables the main program got %q, want %q", got, want)
	}
	if got := run(t, b, "env; grep -c "+envVariable+" all || true"); strings.Contains(got, "SECRET") || !strings.HasSuffix(got, "\n0") {
		t.Errorf("a command's environment, and how often the main program sees how it got its own:\n%s", got)
	}
	for name, env := range map[string]map[string]string{
		"a name that shells do not know": {"A-B": "c"}, "too much": {"A": strings.Repeat("x", maxVariable+1)},
	} {
		if _, err := p.Start(t.Context(), sandbox.Spec{Name: "x", Command: []string{"true"}, Env: env}); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

func TestHandlesAreSharedAndBounded(t *testing.T) {
	t.Parallel()
	s := server(t)
	p := open(t, options(s))
	b := startBox(t, p).(*box)
	again, err := p.Attach(t.Context(), b.ID())
	if err != nil {
		t.Fatal(err)
	}
	if again.(*box).h != b.h {
		t.Error("two handles of one box have a connection each")
	}
	for i := range 2 * mostHandles {
		sb, err := p.client.Sandboxes.FromID(t.Context(), "sb-"+strings.Repeat("x", i+1), nil)
		if err != nil {
			t.Fatal(err)
		}
		p.handles.keep(sb)
	}
	if n := len(p.handles.byID); n > mostHandles {
		t.Errorf("%d handles are kept", n)
	}
	run(t, b, "true") // whoever has one can go on
	if err := b.Kill(t.Context()); err != nil {
		t.Error(err)
	}
}
