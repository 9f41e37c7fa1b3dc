// Package backends asks each backend directly, without a sidecar, whether it
// answers from where the applications run: a few bytes of each one's protocol.
package backends

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"samples/internal/web"
)

// Addresses as the user's manifests name them.
var (
	valkeyAddress  = web.Env("VALKEY_ADDRESS", "valkey.cache.svc:6379")
	kafkaAddress   = web.Env("KAFKA_ADDRESS", "strimzi-kafka-bootstrap.messaging.svc:9093")
	openbaoAddress = web.Env("OPENBAO_ADDRESS", "openbao.security.svc:8200")
	minioAddress   = web.Env("MINIO_ADDRESS", "minio.storage.svc:9000")
)

// Checks by backend name.
var Checks = map[string]web.Check{
	"valkey": func(ctx context.Context) (string, error) {
		reply, err := Valkey(ctx, "PING")
		return fmt.Sprintf("PING answered %s at %s", reply, valkeyAddress), err
	},
	"kafka":   kafka,
	"openbao": func(ctx context.Context) (string, error) { return get(ctx, openbaoAddress, "/v1/sys/health") },
	"minio":   func(ctx context.Context) (string, error) { return get(ctx, minioAddress, "/minio/health/live") },
}

// Valkey runs one command with the password from VALKEY_PASSWORD and returns a
// simple, integer or bulk reply as text.
func Valkey(ctx context.Context, command ...string) (string, error) {
	conn, err := dial(ctx, valkeyAddress)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	if password := web.Env("VALKEY_PASSWORD", ""); password != "" {
		if _, err := roundTrip(conn, reader, []string{"AUTH", password}); err != nil {
			return "", fmt.Errorf("valkey refused the password: %w", err)
		}
	}
	return roundTrip(conn, reader, command)
}

func roundTrip(w io.Writer, r *bufio.Reader, command []string) (string, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "*%d\r\n", len(command))
	for _, word := range command {
		fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(w, out.String()); err != nil {
		return "", err
	}
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("valkey sent an empty reply line")
	}
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '$':
		size, err := strconv.Atoi(line[1:])
		if err != nil || size < 0 {
			return "", err
		}
		body := make([]byte, size+2)
		if _, err := io.ReadFull(r, body); err != nil {
			return "", err
		}
		return string(body[:size]), nil
	default:
		return "", fmt.Errorf("valkey answered %s", line)
	}
}

// kafka sends an ApiVersions v0 request and reads its error code and count.
func kafka(ctx context.Context) (string, error) {
	conn, err := dial(ctx, kafkaAddress)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	const apiVersions, correlation = 18, 7
	client := "samples"
	request := binary.BigEndian.AppendUint16(nil, apiVersions)
	request = binary.BigEndian.AppendUint16(request, 0)
	request = binary.BigEndian.AppendUint32(request, correlation)
	request = binary.BigEndian.AppendUint16(request, uint16(len(client)))
	request = append(request, client...)
	framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)
	if _, err := conn.Write(framed); err != nil {
		return "", err
	}
	head := make([]byte, 14) // size, correlation id, error code, number of APIs
	if _, err := io.ReadFull(conn, head); err != nil {
		return "", err
	}
	if got := binary.BigEndian.Uint32(head[4:]); got != correlation {
		return "", fmt.Errorf("kafka answered correlation id %d, sent %d", got, correlation)
	}
	if code := binary.BigEndian.Uint16(head[8:]); code != 0 {
		return "", fmt.Errorf("kafka answered error code %d", code)
	}
	return fmt.Sprintf("ApiVersions lists %d APIs at %s", binary.BigEndian.Uint32(head[10:]), kafkaAddress), nil
}

// StoreInOpenBao writes a secret of one key into the KV engine `secret`, with
// the token from OPENBAO_TOKEN.
func StoreInOpenBao(ctx context.Context, name, key, value string) error {
	body, err := json.Marshal(map[string]any{"data": map[string]string{key: value}})
	if err != nil {
		return err
	}
	url := "http://" + openbaoAddress + "/v1/secret/data/" + name
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", web.Env("OPENBAO_TOKEN", ""))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("openbao answered %d to a write of secret %s", response.StatusCode, name)
	}
	return nil
}

func get(ctx context.Context, address, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s%s answered %d", address, path, response.StatusCode)
	}
	return fmt.Sprintf("GET %s%s answered 200", address, path), nil
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
