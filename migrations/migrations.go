// Package migrations brings a database up to date.
//
// The numbered SQL files are embedded. Each is applied once, in order, in a
// transaction of its own together with the row that says so. Several programs
// may start at once: an advisory lock lets one work while the others wait. A
// file that was applied must never change; its checksum is compared at each
// start. An older program refuses to work on a newer database.
package migrations

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

//go:embed *.sql
var files embed.FS

// lockID is the advisory lock's number; any constant that nothing else uses.
const lockID = 0x6f70656e696e73 // "openins"

// migration is one file.
type migration struct {
	version  int
	name     string
	sql      string
	checksum string
}

// Up applies what is missing. It waits while another program does the same.
func Up(ctx context.Context, db *sql.DB) error { return up(ctx, db, files) }

func up(ctx context.Context, db *sql.DB, fsys fs.FS) (err error) {
	all, err := read(fsys)
	if err != nil {
		return err
	}
	// The lock belongs to a connection, so everything happens on one.
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `select pg_advisory_lock($1)`, lockID); err != nil {
		return fmt.Errorf("waiting for another program's migration: %w", err)
	}
	defer func() {
		_, unlockErr := conn.ExecContext(context.WithoutCancel(ctx), `select pg_advisory_unlock($1)`, lockID)
		err = errors.Join(err, unlockErr)
	}()
	applied, err := appliedVersions(ctx, conn)
	if err != nil {
		return err
	}
	if err := compare(all, applied); err != nil {
		return err
	}
	for _, m := range all {
		if _, done := applied[m.version]; done {
			continue
		}
		if err := m.apply(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

// read returns the migrations in order. Files are named NNNN_words.sql.
func read(fsys fs.FS) ([]migration, error) {
	names, err := fs.Glob(fsys, "*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, name := range names { // Glob sorts
		number, _, ok := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if !ok || err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s is not number %d", name, i+1)
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("reading migration %s: %w", name, err)
		}
		sum := sha256.Sum256(data)
		all = append(all, migration{version, name, string(data), hex.EncodeToString(sum[:])})
	}
	return all, nil
}

// appliedVersions returns the checksums of what the database has.
func appliedVersions(ctx context.Context, conn *sql.Conn) (map[int]string, error) {
	const table = `create table if not exists schema_migrations (
		version    integer primary key,
		name       text not null,
		checksum   text not null,
		applied_at timestamptz not null default now())`
	if _, err := conn.ExecContext(ctx, table); err != nil {
		return nil, fmt.Errorf("making the table of migrations: %w", err)
	}
	rows, err := conn.QueryContext(ctx, `select version, checksum from schema_migrations`)
	if err != nil {
		return nil, fmt.Errorf("reading the table of migrations: %w", err)
	}
	defer rows.Close()
	applied := map[int]string{}
	for rows.Next() {
		var version int
		var checksum string
		if err := rows.Scan(&version, &checksum); err != nil {
			return nil, err
		}
		applied[version] = checksum
	}
	return applied, rows.Err()
}

// compare refuses a database that other files made.
func compare(all []migration, applied map[int]string) error {
	for version, checksum := range applied {
		switch {
		case version > len(all):
			return fmt.Errorf("the database is at migration %d, this program knows only %d: it was made by a newer version, which has to be started instead",
				version, len(all))
		case all[version-1].checksum != checksum:
			return fmt.Errorf("migration %s was changed after it had been applied to this database: restore the file and put the change into a new one, or start with a new database",
				all[version-1].name)
		}
	}
	return nil
}

func (m migration) apply(ctx context.Context, conn *sql.Conn) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning migration %s: %w", m.name, err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if _, err := tx.ExecContext(ctx, m.sql); err != nil {
		return fmt.Errorf("applying migration %s: %w", m.name, err)
	}
	const note = `insert into schema_migrations (version, name, checksum) values ($1, $2, $3)`
	if _, err := tx.ExecContext(ctx, note, m.version, m.name, m.checksum); err != nil {
		return fmt.Errorf("recording migration %s: %w", m.name, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing migration %s: %w", m.name, err)
	}
	return nil
}
