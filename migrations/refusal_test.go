package migrations_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jmoiron/sqlx"

	"openinspect/internal/devpg/pgtest"
	"openinspect/migrations"
)

func oneFile(sql string) fs.FS {
	return fstest.MapFS{"0001_init.sql": {Data: []byte(sql)}}
}

// emptied returns a database without any table.
func emptied(t *testing.T) *sqlx.DB {
	t.Helper()
	db := pgtest.New(t)
	if _, err := db.Exec(`drop schema public cascade; create schema public`); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestWhatCannotBeMigratedSaysWhy(t *testing.T) {
	t.Parallel()
	first := `create table a (id integer)`
	for name, c := range map[string]struct {
		files fs.FS
		want  string
	}{
		"a changed file":   {oneFile(first + ` -- changed`), "0001_init.sql was changed after it had been applied"},
		"an older program": {fstest.MapFS{}, "made by a newer version"},
		"a gap":            {fstest.MapFS{"0001_init.sql": {Data: []byte(first)}, "0003_x.sql": {}}, "0003_x.sql is not number 2"},
		"broken SQL": {fstest.MapFS{"0001_init.sql": {Data: []byte(first)},
			"0002_bad.sql": {Data: []byte(`create table b (id integer); nonsense`)}}, "applying migration 0002_bad.sql"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := emptied(t)
			ctx := context.Background()
			if err := migrations.UpFrom(ctx, db.DB, oneFile(first)); err != nil {
				t.Fatal(err)
			}
			err := migrations.UpFrom(ctx, db.DB, c.files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			var left bool
			if err := db.Get(&left, `select to_regclass('b') is not null`); err != nil || left {
				t.Errorf("a failed migration left its table behind (%v)", err)
			}
		})
	}
}
