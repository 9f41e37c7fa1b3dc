package backends

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"

	"samples/internal/web"
)

// Session is a connection to Valkey that is kept, for commands in quick
// succession. Commands on it run one after the other.
type Session struct {
	mu     sync.Mutex
	conn   net.Conn
	reader *bufio.Reader
}

// Do runs one command like [Valkey]. A command whose reply was lost is sent
// again once, on a new connection: it may then take effect twice.
func (s *Session) Do(ctx context.Context, command ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply, err := s.try(ctx, command)
	if err != nil {
		reply, err = s.try(ctx, command)
	}
	return reply, err
}

func (s *Session) try(ctx context.Context, command []string) (string, error) {
	if err := s.connect(ctx); err != nil {
		return "", err
	}
	reply, err := roundTrip(s.conn, s.reader, command)
	if err != nil {
		s.conn.Close()
		s.conn = nil
	}
	return reply, err
}

func (s *Session) connect(ctx context.Context) error {
	if s.conn != nil {
		return s.conn.SetDeadline(time.Now().Add(5 * time.Second))
	}
	conn, err := dial(ctx, valkeyAddress)
	if err != nil {
		return err
	}
	reader := bufio.NewReader(conn)
	if password := web.Env("VALKEY_PASSWORD", ""); password != "" {
		if _, err := roundTrip(conn, reader, []string{"AUTH", password}); err != nil {
			conn.Close()
			return err
		}
	}
	s.conn, s.reader = conn, reader
	return nil
}
