// Package postgres opens the pool of connections to the database.
//
// Each connection keeps the statements that it has prepared. The statements of
// this program are short and find their rows by an index, so that parsing and
// planning would be most of their cost: measured on Postgres 15, one of the
// log's statements took 310 µs each time that it was sent as text, and 70 µs
// prepared. lib/pq sends as text whatever has not been prepared explicitly, and
// database/sql prepares on a connection of its own choice, which a transaction
// must not wait for; hence a driver.Conn around lib/pq's.
//
// A statement is a text: two statements that differ in a number only are two.
// Those without arguments are never prepared. What a connection has prepared
// ends with it, so DATABASE_URL may lead to a proxy that pools whole sessions,
// not to one that gives every transaction another server.
//
// A transaction in which nothing is said for a minute is ended by the server: its
// replica hangs, or is cut off, and others wait for the rows that it has locked.
package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// Open makes a pool for a connection string as lib/pq takes it. It does not
// connect. The caller closes the pool.
func Open(dsn string) (*sqlx.DB, error) {
	c, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, fmt.Errorf("reading the database's address: %w", err)
	}
	return sqlx.NewDb(sql.OpenDB(connector{c}), "postgres"), nil
}

// connector makes connections that keep their statements.
type connector struct{ driver.Connector }

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	able, ok := inner.(session)
	if !ok {
		return nil, errors.Join(errors.New("this version of lib/pq lacks a method of database/sql/driver"), inner.Close())
	}
	if _, err := able.ExecContext(ctx, `set idle_in_transaction_session_timeout = '1min'`, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("bounding transactions: %w", err), inner.Close())
	}
	return &conn{session: able, prepared: make(map[string]statement)}, nil
}

// session is what lib/pq's connections are able to do.
type session interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// statement is what lib/pq's prepared statements are able to do.
type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// mostPrepared bounds the statements that one connection keeps. The program has
// about half as many.
const mostPrepared = 400

// conn is one connection. database/sql uses it from one goroutine at a time.
type conn struct {
	session
	prepared map[string]statement
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if len(args) == 0 {
		return c.session.QueryContext(ctx, query, args)
	}
	s, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args)
	return rows, c.checked(query, err)
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) == 0 {
		return c.session.ExecContext(ctx, query, args)
	}
	s, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	result, err := s.ExecContext(ctx, args)
	return result, c.checked(query, err)
}

// statement finds or prepares a statement.
func (c *conn) statement(ctx context.Context, query string) (statement, error) {
	if s, ok := c.prepared[query]; ok {
		return s, nil
	}
	if len(c.prepared) >= mostPrepared {
		c.forgetAll()
	}
	made, err := c.session.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s, ok := made.(statement)
	if !ok {
		return nil, errors.Join(errors.New("this version of lib/pq lacks a method of database/sql/driver"), made.Close())
	}
	c.prepared[query] = s
	return s, nil
}

// forgetAll lets go of all statements. One that cannot be closed is on a
// connection that is broken, which the next statement will notice.
func (c *conn) forgetAll() {
	for query, s := range c.prepared {
		_ = s.Close()
		delete(c.prepared, query)
	}
}

// checked forgets a statement that the server cannot run any more: because a
// migration changed the shape of its result, or because somebody discarded it.
// This try fails, as its transaction may have begun; the next prepares it anew.
func (c *conn) checked(query string, err error) error {
	if pq.As(err, pqerror.FeatureNotSupported, pqerror.InvalidSQLStatementName) != nil {
		delete(c.prepared, query)
	}
	return err
}
