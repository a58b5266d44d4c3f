package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"openinspect/internal/devpg/pgtest"
	"openinspect/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// one is a pool of a single connection, so that statements meet what those
// before them left.
func one(t testing.TB) *sqlx.DB {
	t.Helper()
	db, err := postgres.Open(pgtest.NewURL(t))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	if _, err := db.Exec(`create table things (id bigint primary key, name text not null)`); err != nil {
		t.Fatal(err)
	}
	return db
}

// prepared counts what the connection keeps at the server.
func prepared(t testing.TB, db *sqlx.DB) (n int) {
	t.Helper()
	if err := db.Get(&n, `select count(*) from pg_prepared_statements`); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAStatementIsPreparedOnceAndServesInsideAndOutsideTransactions(t *testing.T) {
	t.Parallel()
	db := one(t)
	for i := range 5 {
		tx := db.MustBegin()
		tx.MustExec(`insert into things values ($1, $2)`, i, fmt.Sprint("thing ", i))
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		db.MustExec(`insert into things values ($1, $2)`, 100+i, "outside")
		var names []string
		if err := db.Select(&names, `select name from things where id = any($1) order by id`, pq.Array([]int{i, 100 + i})); err != nil {
			t.Fatal(err)
		}
		if len(names) != 2 || names[1] != "outside" {
			t.Errorf("read %q", names)
		}
	}
	if n := prepared(t, db); n != 2 {
		t.Errorf("%d statements are prepared, want 2", n)
	}
}

func TestAConnectionDoesNotKeepStatementsWithoutEnd(t *testing.T) {
	t.Parallel()
	db := one(t)
	for i := range 1000 {
		var n int
		if err := db.Get(&n, fmt.Sprintf(`select %d + $1::int`, i), 1); err != nil || n != i+1 {
			t.Fatalf("%d + 1 = %d, %v", i, n, err)
		}
	}
	if n := prepared(t, db); n > 400 {
		t.Errorf("%d statements are kept", n)
	}
}

func TestAStatementWorksAgainAfterAMigrationChangedItsResult(t *testing.T) {
	t.Parallel()
	db := one(t)
	db.MustExec(`insert into things values (1, 'one')`)
	read := func() error {
		var rows []map[string]any
		r, err := db.Queryx(`select * from things where id = $1`, 1)
		for err == nil && r.Next() {
			row := map[string]any{}
			if err = r.MapScan(row); err == nil {
				rows = append(rows, row)
			}
		}
		if err == nil {
			err = r.Err()
		}
		if err == nil && len(rows) != 1 {
			err = fmt.Errorf("%d rows", len(rows))
		}
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	db.MustExec(`alter table things add column age int`)
	if err := read(); pq.As(err, pqerror.FeatureNotSupported) == nil {
		t.Fatalf("the old plan gave %v; Postgres refused it when this was written", err)
	}
	if err := read(); err != nil {
		t.Errorf("the statement does not recover: %v", err)
	}
	db.MustExec(`deallocate all`)
	if err := read(); pq.As(err, pqerror.InvalidSQLStatementName) == nil {
		t.Fatalf("a discarded statement gave %v", err)
	}
	if err := read(); err != nil {
		t.Errorf("the statement does not recover from having been discarded: %v", err)
	}
}

func TestAStatementThatTookTooLongLeavesAConnectionThatWorks(t *testing.T) {
	t.Parallel()
	db := one(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, `select pg_sleep($1)`, 60); err == nil {
		t.Fatal("a minute passed within 50 ms")
	}
	var n int
	if err := db.Get(&n, `select $1::int`, 7); err != nil || n != 7 {
		t.Errorf("afterwards: %d, %v", n, err)
	}
	if err := db.Get(&n, `select nothing from things where id = $1`, 7); pq.As(err, pqerror.UndefinedColumn) == nil {
		t.Errorf("a wrong statement gave %v", err)
	}
}

func TestAnAddressThatIsNoneIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	if db, err := postgres.Open("postgres://host:notaport/x"); err == nil {
		t.Error(errors.Join(errors.New("it was taken"), db.Close()))
	}
}

// BenchmarkStatement compares a statement of the usual size through the pool
// with the same one as lib/pq alone sends it.
func BenchmarkStatement(b *testing.B) {
	url := pgtest.NewURL(b)
	kept, err := postgres.Open(url)
	if err != nil {
		b.Fatal(err)
	}
	plain := sqlx.MustOpen("postgres", url)
	b.Cleanup(func() { kept.Close(); plain.Close() })
	for name, db := range map[string]*sqlx.DB{"prepared": kept, "plain": plain} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, err := db.Exec(`update outbox o set wanted = $2 where o.session_id = $1 and o.kind = 'card' and o.state = 'pending'
					and exists (select from prompts p where p.id = o.prompt_id and p.state in ('queued', 'running'))`, "none", 7)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestAReplicaThatHangsInATransactionLetsGoOfItsRows(t *testing.T) {
	t.Parallel()
	url := pgtest.NewURL(t)
	var dbs [2]*sqlx.DB
	for i := range dbs {
		db, err := postgres.Open(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		dbs[i] = db
	}
	dbs[0].MustExec(`create table things (id bigint primary key, name text not null)`)
	dbs[0].MustExec(`insert into things values (1, 'one')`)
	hangs := dbs[0].MustBegin()
	var bound string
	if err := hangs.Get(&bound, `show idle_in_transaction_session_timeout`); err != nil || bound != "1min" {
		t.Errorf("a transaction may say nothing for %q (%v)", bound, err)
	}
	hangs.MustExec(`set local idle_in_transaction_session_timeout = '100ms'`) // which nobody wants to wait for
	hangs.MustExec(`update things set name = 'two' where id = 1`)
	dbs[1].MustExec(`update things set name = 'three' where id = 1`)
	if err := hangs.Commit(); err == nil {
		t.Error("what hung was committed all the same")
	}
	dbs[0].MustExec(`update things set name = 'four' where id = 1`) // over another connection
}
