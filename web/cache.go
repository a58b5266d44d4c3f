package web

import (
	"container/list"
	"sync"
)

// rowCache keeps the rows that were used last, up to a number of bytes. It is
// safe for concurrent use.
type rowCache struct {
	most int

	mu    sync.Mutex
	size  int
	order *list.List // of cachedRow, used last first
	rows  map[rowID]*list.Element
}

type rowID struct {
	session string
	seq     int64
}

type cachedRow struct {
	id  rowID
	row row
}

func newRowCache(most int) *rowCache {
	return &rowCache{most: most, order: list.New(), rows: make(map[rowID]*list.Element)}
}

func (c *rowCache) get(session string, seq int64) (row, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.rows[rowID{session, seq}]
	if !ok {
		return row{}, false
	}
	c.order.MoveToFront(e)
	return e.Value.(cachedRow).row, true
}

func (c *rowCache) put(session string, r row) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := rowID{session, r.Seq}
	if _, known := c.rows[id]; known {
		return
	}
	c.rows[id] = c.order.PushFront(cachedRow{id, r})
	c.size += weight(r)
	for c.size > c.most {
		oldest := c.order.Back()
		gone := c.order.Remove(oldest).(cachedRow)
		delete(c.rows, gone.id)
		c.size -= weight(gone.row)
	}
}

// weight estimates what a cached row occupies: its HTML and what surrounds it.
func weight(r row) int { return len(r.HTML) + len(r.Key) + 200 }
