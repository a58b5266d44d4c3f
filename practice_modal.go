package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sync/errgroup"

	practicemodal "openinspect/internal/practice/modal"
	"openinspect/sandbox"
	"openinspect/sandbox/local"
)

// openModal starts the stand-in for Modal, if sandboxes shall run there. It runs
// them as processes of this machine; what speaks to it is the provider and the
// SDK of production.
func (p *practice) openModal(ctx context.Context, group *errgroup.Group, opencode string) (err error) {
	if p.sandboxes != providerModal {
		return nil
	}
	options := practicemodal.Options{
		Log: p.log, Address: fmt.Sprintf("127.0.0.1:%d", p.state.ModalPort),
		Boxes: local.Options{
			Control: p.machineSocket(), Binary: p.binary, Tools: map[string]string{sandbox.Tools + "/opencode": opencode},
		},
	}
	p.modal, err = practicemodal.Open(ctx, filepath.Join(p.dir, "modal"), options)
	if errors.Is(err, syscall.EADDRINUSE) {
		p.log.Warn("a stand-in's port is taken; moving to another", "port", p.state.ModalPort)
		options.Address = ""
		p.modal, err = practicemodal.Open(ctx, filepath.Join(p.dir, "modal"), options)
	}
	if err != nil {
		return fmt.Errorf("opening the Modal stand-in: %w", err)
	}
	p.state.ModalPort = portOf(p.modal.URL())
	group.Go(func() error { return p.modal.Run(ctx) })
	return p.saveState()
}

// machineSocket is where the child has its machine listener.
func (p *practice) machineSocket() string { return filepath.Join(p.dir, "machine", "machine.sock") }

// modalEnv configures the child to run sandboxes at the stand-in.
func (p *practice) modalEnv() []string {
	if p.modal == nil {
		return nil
	}
	return []string{
		"SANDBOX_PROVIDER=" + providerModal, "MODAL_SERVER_URL=" + p.modal.URL(),
		"MODAL_TOKEN_ID=" + practicemodal.TokenID, "MODAL_TOKEN_SECRET=" + practicemodal.TokenSecret,
		"MACHINE_URL=" + local.ControlAddress(p.machineSocket()),
	}
}

// whereSandboxesRun is said to people.
func (p *practice) whereSandboxesRun() string {
	if p.modal == nil {
		return "processes of this machine (--sandboxes modal: over Modal's protocol)"
	}
	return "stand-in for Modal at " + p.modal.URL()
}

// portOf is the port in a URL of a stand-in.
func portOf(raw string) int {
	u, err := url.Parse(raw)
	if err != nil {
		return 0 // any
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0
	}
	return port
}
