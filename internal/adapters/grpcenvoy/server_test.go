package grpcenvoy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const patience = 10 * time.Second

func testConfig() grpcenvoy.Config { return grpcenvoy.Config{} }

// fixed gives every request the same answer.
type fixed struct{ answer ports.Answer }

func (f fixed) Decide(context.Context, policy.Request) (decision.Decision, error) {
	return f.answer.Decision, f.answer.Err
}

func (f fixed) DecideMany(_ context.Context, _ []policy.Request, answers []ports.Answer) {
	for i := range answers {
		answers[i] = f.answer
	}
}

func (f fixed) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	f.DecideMany(ctx, reqs, answers)
}

func TestServer_healthAndReflection(t *testing.T) {
	addr, s := start(t, testConfig(), newLimiter(nil))
	conn := dial(t, addr)
	health := healthv1.NewHealthClient(conn)
	for _, name := range []string{"", rlsv3.RateLimitService_ServiceDesc.ServiceName} {
		r, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		require.NoError(t, err)
		assert.Equal(t, healthv1.HealthCheckResponse_SERVING, r.GetStatus())
	}
	watch, err := health.Watch(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	r, err := watch.Recv()
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, r.GetStatus())

	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}))
	list, err := stream.Recv()
	require.NoError(t, err)
	var names []string
	for _, service := range list.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	assert.Contains(t, names, "envoy.service.ratelimit.v3.RateLimitService")
	require.NoError(t, stream.CloseSend())

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // the watch does not end by itself
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	r, err = watch.Recv()
	require.NoError(t, err)
	assert.Equal(t, healthv1.HealthCheckResponse_NOT_SERVING, r.GetStatus(), "the watcher gets it before the connection is closed")
}

func TestServer_shutdownFinishesCallsInFlight(t *testing.T) {
	l := newLimiter(nil)
	reached, release := make(chan struct{}), make(chan struct{})
	l.before = func() { close(reached); <-release }
	addr, s := start(t, testConfig(), l)
	c := rlsv3.NewRateLimitServiceClient(dial(t, addr))
	answered := make(chan error, 1)
	go func() {
		_, err := c.ShouldRateLimit(t.Context(), request(descriptor("a=b")))
		answered <- err
	}()
	select {
	case <-reached:
	case err := <-answered:
		require.NoError(t, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, patience, time.Millisecond, "it still accepts")
	close(release)
	require.NoError(t, <-answered)
	require.NoError(t, <-stopped)
}

// certificates writes a certificate for 127.0.0.1 that is its own authority, for servers and clients.
func certificates(t *testing.T, name string) (certFile, keyFile string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, keyPEM, 0o600))
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	return certFile, keyFile, pair
}

func TestServer_tlsAndClientCertificates(t *testing.T) {
	serverCert, serverKey, _ := certificates(t, "server")
	clientCert, _, known := certificates(t, "client")
	_, _, other := certificates(t, "other")
	roots := x509.NewCertPool()
	text, err := os.ReadFile(serverCert)
	require.NoError(t, err)
	require.True(t, roots.AppendCertsFromPEM(text))
	call := func(addr string, certs ...tls.Certificate) codes.Code {
		creds := credentials.NewTLS(&tls.Config{RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS12})
		c := rlsv3.NewRateLimitServiceClient(dial(t, addr, grpc.WithTransportCredentials(creds)))
		_, err := c.ShouldRateLimit(t.Context(), request(descriptor("a=b")))
		return status.Code(err)
	}

	addr, _ := start(t, grpcenvoy.Config{TLSCertFile: serverCert, TLSKeyFile: serverKey}, newLimiter(nil))
	assert.Equal(t, codes.OK, call(addr))
	plain, err := rlsv3.NewRateLimitServiceClient(dial(t, addr)).ShouldRateLimit(t.Context(), request(descriptor("a=b")))
	assert.Nil(t, plain)
	assert.Equal(t, codes.Unavailable, status.Code(err), "without TLS")

	addr, _ = start(t, grpcenvoy.Config{TLSCertFile: serverCert, TLSKeyFile: serverKey, ClientCAFile: clientCert}, newLimiter(nil))
	assert.Equal(t, codes.OK, call(addr, known))
	assert.Equal(t, codes.Unavailable, call(addr), "no certificate")
	assert.Equal(t, codes.Unavailable, call(addr, other), "a certificate of another authority")
}

func TestConfig_reportsEveryViolation(t *testing.T) {
	cert, key, _ := certificates(t, "server")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for want, cfg := range map[string]grpcenvoy.Config{
		`GRPC_ADDR: "3002": must be host:port or :port`:                          {Addr: "3002"},
		`GRPC_TLS_CERT_FILE: "x": must be set together with`:                     {TLSCertFile: "x"},
		`GRPC_TLS_CERT_FILE: "x": cannot be loaded with its key`:                 {TLSCertFile: "x", TLSKeyFile: "y"},
		`GRPC_CLIENT_CA_FILE: "x": needs GRPC_TLS_CERT_FILE`:                     {ClientCAFile: "x"},
		`GRPC_CLIENT_CA_FILE: "` + empty + `": cannot be loaded: it has no cert`: {TLSCertFile: cert, TLSKeyFile: key, ClientCAFile: empty},
		`ENVOY_CONFIG: "x": is for the gRPC listener, which needs GRPC_ADDR`:     {RulesPath: "x"},
		`ENVOY_LIMITS: "quota": is for the gRPC listener, which needs GRPC_ADDR`: {Limits: "quota"},
		`ENVOY_LIMITS: "Quota": must be bucket or quota`:                         {Addr: ":3002", Limits: "Quota"},
	} {
		require.ErrorContains(t, cfg.Validate(), want)
	}
	require.NoError(t, grpcenvoy.Config{}.Validate(), "off")
	require.NoError(t, grpcenvoy.Config{Limits: "bucket"}.Validate(), "off, with the default of the environment")
	require.NoError(t, grpcenvoy.Config{Addr: ":3002", Limits: "quota"}.Validate(), "without files: for limits in requests")
	err := grpcenvoy.Config{Addr: "x", ClientCAFile: "x"}.Validate()
	require.ErrorContains(t, err, "GRPC_ADDR")
	require.ErrorContains(t, err, "GRPC_CLIENT_CA_FILE")

	_, err = grpcenvoy.New(grpcenvoy.Config{Addr: ":0", RulesPath: filepath.Join(t.TempDir(), "none.yaml")}, newLimiter(nil), zap.NewNop())
	require.ErrorContains(t, err, "ENVOY_CONFIG: ")
}

func TestConfig_exposed(t *testing.T) {
	assert.True(t, grpcenvoy.Config{Addr: ":3002"}.Exposed())
	assert.True(t, grpcenvoy.Config{Addr: "10.0.0.1:3002"}.Exposed())
	assert.False(t, grpcenvoy.Config{Addr: "127.0.0.1:3002"}.Exposed())
	assert.False(t, grpcenvoy.Config{Addr: "[::1]:3002"}.Exposed())
	assert.False(t, grpcenvoy.Config{Addr: ":3002", TLSCertFile: "x"}.Exposed())
	assert.False(t, grpcenvoy.Config{}.Exposed())
}
