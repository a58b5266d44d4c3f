package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"openinspect/internal/postgres"
	"openinspect/migrations"
	"openinspect/sandbox"
	"openinspect/sandbox/supervisor"
)

// superviseCommand is `openinspect supervise`, the program inside a sandbox. It
// is configured by the environment that its provider gives it. With --prepare it
// prepares an image instead (sandbox.Preparation).
func superviseCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg := supervisor.Config{
		Control: os.Getenv(sandbox.EnvControl), Token: os.Getenv(sandbox.EnvToken), Log: newLog(stderr, slog.LevelInfo),
	}
	if cfg.Control == "" || cfg.Token == "" {
		return fmt.Errorf("%s and %s are not set: this runs inside a sandbox, where the control plane starts it",
			sandbox.EnvControl, sandbox.EnvToken)
	}
	if len(args) == 1 && args[0] == "--prepare" {
		return prepareImage(ctx, cfg, os.Stdin, stdout)
	}
	return supervisor.Run(ctx, cfg)
}

// prepareImage reads what to prepare, and says at the end how that went.
func prepareImage(ctx context.Context, cfg supervisor.Config, in io.Reader, out io.Writer) error {
	var asked sandbox.Preparation
	if err := json.NewDecoder(in).Decode(&asked); err != nil {
		return fmt.Errorf("reading what to prepare: %w", err)
	}
	did, err := supervisor.Prepare(ctx, cfg, asked, os.Stderr)
	if err != nil {
		did.Error = err.Error()
	}
	return errors.Join(err, json.NewEncoder(out).Encode(did))
}

// migrateCommand is `openinspect migrate`. It needs DATABASE_URL only.
func migrateCommand(ctx context.Context, _ []string, stdout, stderr io.Writer) error {
	dsn := os.Getenv("DATABASE_URL")
	if dsn == "" {
		fmt.Fprintln(stderr, "openinspect: DATABASE_URL is not set (the private database of an unset one is migrated by serve)")
		return errConfig
	}
	db, err := postgres.Open(dsn)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer db.Close()
	if err := migrations.Up(ctx, db.DB); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "the database is up to date")
	return nil
}

// doctorCommand is `openinspect doctor`: it checks each credential against its
// remote and says what is missing. It fails if anything is, but for tools that
// only some repositories need.
func doctorCommand(ctx context.Context, _ []string, stdout, stderr io.Writer) error {
	cfg, err := loadConfig(os.Environ())
	if err != nil {
		printProblems(stderr, err)
		return errConfig
	}
	wrong := 0
	for _, c := range cfg.checks(newLog(stderr, slog.LevelError)) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		detail, err := c.check(ctx)
		cancel()
		if missing, warns := errors.AsType[toolsMissing](err); warns {
			for _, sentence := range missing {
				fmt.Fprintf(stdout, "! %-16s %s\n", c.name, sentence)
			}
			continue
		}
		if err != nil {
			wrong++
			fmt.Fprintf(stdout, "✗ %-16s %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(stdout, "✓ %-16s %s\n", c.name, detail)
	}
	if wrong > 0 {
		return fmt.Errorf("%d of the checks failed", wrong)
	}
	return nil
}
