package httpfiber_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// certificate writes a key and a certificate for 127.0.0.1 that signs itself, and returns the files and the pool.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pool
}

func TestTLS_servesAndStops(t *testing.T) {
	cfg := testConfig()
	cfg.ReadTimeout = time.Minute
	var pool *x509.CertPool
	cfg.TLSCertFile, cfg.TLSKeyFile, pool = certificate(t)
	s := startToStop(t, cfg, always(decided(t, 9, 1, true)))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}

	res, err := client.Get("https://" + s.addr + "/api/resource")
	require.NoError(t, err)
	got := read(t, res)
	assert.Equal(t, 200, got.status)
	assert.Equal(t, "9", got.header.Get("X-RateLimit-Remaining"))

	res, err = client.Post("https://"+s.addr+"/v1/check", "application/json", strings.NewReader(strings.Repeat(" ", 4<<20)))
	require.NoError(t, err, "the answer is read although the body was not")
	assert.Equal(t, 413, read(t, res).status)

	silent, late := dial(t, s.addr), dial(t, s.addr)
	stopped := make(chan time.Duration, 1)
	go func() {
		took, err := s.shutdown(t, 20*time.Second)
		assert.NoError(t, err)
		stopped <- took
	}()
	require.Eventually(t, func() bool { // the drain is over
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, 5*time.Second, 10*time.Millisecond)
	// A handshake now makes the server begin to wait for a request, but not for the whole of its timeout.
	require.NoError(t, tls.Client(late, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}).HandshakeContext(t.Context()))
	assert.Less(t, <-stopped, 4*time.Second)
	_, err = silent.Read(make([]byte, 1))
	assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}
