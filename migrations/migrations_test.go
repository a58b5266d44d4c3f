package migrations_test

import (
	"context"
	"testing"

	"golang.org/x/sync/errgroup"

	"openinspect/internal/devpg/pgtest"
	"openinspect/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestADatabaseOfTheTemplateIsUpToDate(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if err := migrations.Up(context.Background(), db.DB); err != nil {
		t.Fatal(err)
	}
	var tables int
	if err := db.Get(&tables, `select count(*) from information_schema.tables where table_schema = 'public'`); err != nil {
		t.Fatal(err)
	}
	if tables < 10 {
		t.Errorf("only %d tables: the migrations made nothing", tables)
	}
}

func TestSeveralStartersAtOnceMigrateOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.NewURL(t)
	fsys := oneFile(`create table once (id integer); insert into once values (1)`)
	scratch := pgtest.Open(t, url)
	if _, err := scratch.Exec(`drop schema public cascade; create schema public`); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 4 {
		db := pgtest.Open(t, url)
		g.Go(func() error { return migrations.UpFrom(context.Background(), db.DB, fsys) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := scratch.Get(&rows, `select count(*) from once`); err != nil || rows != 1 {
		t.Errorf("the migration ran %d times (%v), want once", rows, err)
	}
}
