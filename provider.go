package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"openinspect/sandbox"
	"openinspect/sandbox/image"
	"openinspect/sandbox/local"
	"openinspect/sandbox/modal"
)

// The values of SANDBOX_PROVIDER.
const (
	providerLocal = "local"
	providerModal = "modal"
)

// sandboxes is the configured provider and what goes with it.
type sandboxes struct {
	sandbox.Provider
	run     func(context.Context) error
	close   func() error
	control string   // how a box reaches the machine listener
	command []string // the main program of a box: the supervisor
	socket  string   // the Unix socket of the machine listener; empty: there is none
}

// openProvider makes the provider of sandboxes.
func (c *control) openProvider(ctx context.Context) (err error) {
	dir, err := filepath.Abs(c.cfg.DataDir)
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "machine", "machine.sock")
	if c.cfg.SandboxProvider == providerModal {
		c.provider, c.executable, err = c.cfg.openModal(socket, c.log)
		return err
	}
	c.provider, err = c.cfg.openLocal(ctx, dir, socket, c.log)
	return err
}

func (c *Config) openLocal(ctx context.Context, dir, socket string, log *slog.Logger) (sandboxes, error) {
	opencode := c.OpenCodePath
	if opencode == "" {
		var err error
		if opencode, err = ensureOpenCode(ctx); err != nil {
			return sandboxes{}, err
		}
	}
	p, err := local.New(ctx, local.Options{
		Dir: filepath.Join(dir, "sandboxes"), Control: socket, Binary: selfPath(),
		Tools:    map[string]string{sandbox.Tools + "/opencode": opencode},
		Lifetime: c.SandboxLifetime, MemMiB: c.SandboxMemory,
		MaxBoxes: c.MaxSandboxes + imageBuilds, Unisolated: c.LocalUnisolated == "yes", Log: log,
	})
	if err != nil {
		return sandboxes{}, err
	}
	return sandboxes{
		Provider: p, run: p.Run, close: func() error { return nil }, control: local.ControlAddress(socket),
		command: []string{local.Program, "supervise"}, socket: socket,
	}, nil
}

// openModal makes the provider of sandboxes at Modal, and finds the program that
// they fetch. They reach a Unix socket only if Modal is its stand-in.
func (c *Config) openModal(socket string, log *slog.Logger) (sandboxes, *executable, error) {
	program, err := openExecutable()
	if err != nil {
		return sandboxes{}, nil, err
	}
	p, err := c.newModal(log)
	if err != nil {
		return sandboxes{}, nil, errors.Join(err, program.Close())
	}
	if !strings.HasPrefix(c.MachineURL, "unix:") {
		socket = ""
	}
	return sandboxes{
		Provider: p, run: p.Run, close: func() error { return errors.Join(p.Close(), program.Close()) },
		control: c.MachineURL, command: modal.Bootstrap(program.sha256), socket: socket,
	}, program, nil
}

func (c *Config) newModal(log *slog.Logger) (*modal.Provider, error) {
	base := image.Base()
	return modal.New(modal.Options{
		TokenID: c.ModalTokenID, TokenSecret: c.ModalTokenSecret, Environment: c.ModalEnvironment,
		App: c.ModalApp, ServerURL: c.ModalServerURL, Control: c.MachineURL, Regions: c.ModalRegions,
		From: base.From, Commands: base.Commands, CPU: c.SandboxCPU, MemMiB: c.SandboxMemory, Lifetime: c.SandboxLifetime, Log: log,
	})
}

// checkModal asks Modal itself.
func (c *Config) checkModal(ctx context.Context, log *slog.Logger) (string, error) {
	p, err := c.newModal(log)
	if err != nil {
		return "", err
	}
	found, err := p.Check(ctx)
	return found, errors.Join(err, p.Close())
}

// checkProvider finds settings of sandboxes that cannot work.
func (c *Config) checkProvider(complain func(format string, args ...any)) {
	longest := 365 * 24 * time.Hour
	switch c.SandboxProvider {
	case providerLocal:
	case providerModal:
		longest = modal.MaxLifetime
		c.checkModalSettings(complain)
	default:
		complain("SANDBOX_PROVIDER is %q: the providers are: local, modal", c.SandboxProvider)
	}
	if c.SandboxLifetime < 0 || c.SandboxLifetime > longest {
		complain("SANDBOX_LIFETIME is %s: give at most %s, or 0s for the provider's own", c.SandboxLifetime, longest)
	}
	if c.SandboxCPU <= 0 {
		complain("SANDBOX_CPU is %g: give a number of cores such as 2", c.SandboxCPU)
	}
	if c.SandboxMemory < 128 {
		complain("SANDBOX_MEMORY_MIB is %d: give at least 128", c.SandboxMemory)
	}
}

func (c *Config) checkModalSettings(complain func(format string, args ...any)) {
	for name, value := range map[string]string{
		"MODAL_TOKEN_ID": c.ModalTokenID, "MODAL_TOKEN_SECRET": c.ModalTokenSecret, "MACHINE_URL": c.MachineURL,
	} {
		if value == "" {
			complain("%s is not set, which SANDBOX_PROVIDER=modal needs: %s", name, describe(name))
		}
	}
	if err := sandbox.CheckRegions(c.ModalRegions); err != nil {
		complain("MODAL_REGIONS: %v", err)
	}
	if c.MachineURL == "" {
		return
	}
	if err := modal.CheckControl(c.MachineURL); err != nil {
		complain("MACHINE_URL: %v", err)
		return
	}
	if strings.HasPrefix(c.MachineURL, "unix:") {
		if !onLoopback(c.ModalServerURL) {
			complain("MACHINE_URL is a Unix socket, which sandboxes at Modal cannot reach: give a URL such as https://machines.inspect.example.org")
		}
		return
	}
	if strings.HasPrefix(c.MachineURL, "http:") && !onLoopback(c.MachineURL) {
		complain("MACHINE_URL is %s: give an https URL, because each sandbox's token goes over it", c.MachineURL)
	}
	if c.MachineListen == "" {
		complain("MACHINE_LISTEN is not set: give the address behind MACHINE_URL, such as 0.0.0.0:8081")
	}
}

// onLoopback says whether a URL leads to this machine.
func onLoopback(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && a.IsLoopback()
}

// listenMachines opens the machine listener: a Unix socket for sandboxes on this
// machine, and a TCP address if one is configured.
func (c *control) listenMachines() (listeners []net.Listener, err error) {
	if c.provider.socket != "" {
		unix, err := local.Listen(c.provider.socket)
		if err != nil {
			return nil, fmt.Errorf("opening the machine listener: %w", err)
		}
		listeners = append(listeners, unix)
	}
	if c.cfg.MachineListen != "" {
		tcp, err := net.Listen("tcp", c.cfg.MachineListen)
		if err != nil {
			err = fmt.Errorf("MACHINE_LISTEN: %w", err)
			for _, l := range listeners {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		listeners = append(listeners, tcp)
	}
	return listeners, nil
}

// endSandboxes ends what the engine could not park, because it was still being
// prepared, if nothing shall be left running.
func (c *control) endSandboxes() error {
	if !c.cfg.ParkOnExit {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return c.engine.EndStarting(ctx)
}
