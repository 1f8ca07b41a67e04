package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpctesting "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// service is gRPC's own service for tests, as far as these tests call it.
type service struct {
	grpctesting.UnimplementedTestServiceServer
}

func (service) UnaryCall(ctx context.Context, in *grpctesting.SimpleRequest) (*grpctesting.SimpleResponse, error) {
	_ = grpc.SetTrailer(ctx, metadata.Pairs("sum", "unary"))
	if s := in.GetResponseStatus(); s.GetCode() != 0 {
		return nil, status.Error(codes.Code(s.GetCode()), s.GetMessage())
	}
	return &grpctesting.SimpleResponse{Payload: in.GetPayload()}, nil
}

// FullDuplexCall answers each message with its payload, or ends with the status that it asks for.
func (service) FullDuplexCall(stream grpctesting.TestService_FullDuplexCallServer) error {
	stream.SetTrailer(metadata.Pairs("sum", "stream"))
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&grpctesting.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
		if s := in.GetResponseStatus(); s.GetCode() != 0 {
			return status.Error(codes.Code(s.GetCode()), s.GetMessage())
		}
	}
}

// startService starts a gRPC server behind the proxy, and returns a client of it through the proxy.
func startService(t *testing.T, client, upstream protocol, settings ...harness.Settings) grpctesting.TestServiceClient {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	vars := harness.Settings{"VELOCITY_UPSTREAM_URL": "h2c://" + ln.Addr().String()}
	var options []grpc.ServerOption
	if upstream.tls {
		ca, cert, key := redistest.Certificates(t)
		pair, err := tls.LoadX509KeyPair(cert, key)
		require.NoError(t, err)
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
		vars = harness.Settings{"VELOCITY_UPSTREAM_URL": "https://" + ln.Addr().String(), "SSL_CERT_FILE": ca}
	}
	g := grpc.NewServer(options...)
	grpctesting.RegisterTestServiceServer(g, service{})
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	s := start(t, client, append([]harness.Settings{vars}, settings...)...)
	creds := insecure.NewCredentials()
	if client.tls {
		creds = credentials.NewTLS(s.tls)
	}
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return grpctesting.NewTestServiceClient(conn)
}

// eachGRPC runs a test for each pair of protocols that gRPC runs over.
func eachGRPC(t *testing.T, f func(t *testing.T, client, upstream protocol)) {
	for _, client := range protocols[2:] {
		for _, upstream := range protocols[2:] {
			t.Run("client "+client.name+", upstream "+upstream.name, func(t *testing.T) {
				t.Parallel()
				f(t, client, upstream)
			})
		}
	}
}

func payload(text string) *grpctesting.Payload { return &grpctesting.Payload{Body: []byte(text)} }

func TestGRPC_callsPassWithTheirTrailers(t *testing.T) {
	t.Parallel()
	eachGRPC(t, func(t *testing.T, client, upstream protocol) {
		c := startService(t, client, upstream)
		var trailer metadata.MD
		large := strings.Repeat("x", 1<<20)
		got, err := c.UnaryCall(t.Context(), &grpctesting.SimpleRequest{Payload: payload(large)}, grpc.Trailer(&trailer))
		require.NoError(t, err)
		assert.Equal(t, large, string(got.GetPayload().GetBody()))
		assert.Equal(t, []string{"unary"}, trailer.Get("sum"))

		stream, err := c.FullDuplexCall(t.Context())
		require.NoError(t, err)
		for i := range 20 { // each message is answered before the next is sent
			text := fmt.Sprint("message ", i)
			require.NoError(t, stream.Send(&grpctesting.StreamingOutputCallRequest{Payload: payload(text)}))
			got, err := stream.Recv()
			require.NoError(t, err)
			assert.Equal(t, text, string(got.GetPayload().GetBody()))
		}
		require.NoError(t, stream.CloseSend())
		_, err = stream.Recv()
		assert.Equal(t, io.EOF, err)
		assert.Equal(t, []string{"stream"}, stream.Trailer().Get("sum"))
	})
}

// The status of a call is in the trailer, at once or after messages. It is never lost, also if many calls fail one after
// the other.
func TestGRPC_failuresKeepTheirStatus(t *testing.T) {
	t.Parallel()
	eachGRPC(t, func(t *testing.T, client, upstream protocol) {
		c := startService(t, client, upstream)
		wanted := &grpctesting.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not ready: ä"}
		for i := range 40 {
			_, err := c.UnaryCall(t.Context(), &grpctesting.SimpleRequest{ResponseStatus: wanted})
			require.Equal(t, codes.FailedPrecondition, status.Code(err), "call %d: %v", i, err)
			require.Equal(t, wanted.Message, status.Convert(err).Message())

			stream, err := c.FullDuplexCall(t.Context())
			require.NoError(t, err)
			require.NoError(t, stream.Send(&grpctesting.StreamingOutputCallRequest{Payload: payload("x"), ResponseStatus: wanted}))
			_, err = stream.Recv()
			require.NoError(t, err)
			_, err = stream.Recv()
			require.Equal(t, codes.FailedPrecondition, status.Code(err), "stream %d: %v", i, err)
			require.Equal(t, wanted.Message, status.Convert(err).Message())
			require.Equal(t, []string{"stream"}, stream.Trailer().Get("sum"))

			_, err = c.EmptyCall(t.Context(), new(grpctesting.Empty))
			require.Equal(t, codes.Unimplemented, status.Code(err), "call %d: %v", i, err)
		}
	})
}

// A client that cancels a call, or whose deadline passes, ends it at the upstream.
// The upstream does not look at the deadline, so only the client can end the call, and the proxy must tell the upstream.
func TestGRPC_deadlinesEndTheCall(t *testing.T) {
	t.Parallel()
	eachGRPC(t, func(t *testing.T, client, upstream protocol) {
		started, ended := make(chan struct{}, 10), make(chan struct{}, 10)
		c := startService(t, client, upstream, upstream.upstreamSettings(t, func(_ http.ResponseWriter, r *http.Request) {
			started <- struct{}{}
			<-r.Context().Done()
			ended <- struct{}{}
		}))
		// On a busy machine a deadline can pass before the upstream has the call. The next one is twice as long.
		for deadline := 200 * time.Millisecond; len(started) == 0; deadline *= 2 {
			require.Less(t, deadline, time.Minute, "no call has reached the upstream")
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			stream, err := c.FullDuplexCall(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			cancel()
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), err)
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("the request of the upstream has not ended")
		}
	})
}

// gRPC's clients take a 429 for an unavailable server, as gRPC's mapping of HTTP statuses says.
func TestGRPC_denialsAreUnavailable(t *testing.T) {
	t.Parallel()
	eachGRPC(t, func(t *testing.T, client, upstream protocol) {
		c := startService(t, client, upstream, none)
		_, err := c.UnaryCall(t.Context(), &grpctesting.SimpleRequest{Payload: payload("x")})
		require.NoError(t, err)
		_, err = c.UnaryCall(t.Context(), &grpctesting.SimpleRequest{Payload: payload("x")})
		assert.Equal(t, codes.Unavailable, status.Code(err), err)
	})
}

// silentCall opens a stream over which nothing is sent for a while.
func silentCall(t *testing.T, client, upstream protocol) func() {
	c := startService(t, client, upstream, short)
	return func() {
		stream, err := c.FullDuplexCall(t.Context())
		if !assert.NoError(t, err) {
			return
		}
		for i, pause := range []time.Duration{0, silence, 0} {
			time.Sleep(pause)
			sent := payload(fmt.Sprint(i))
			assert.NoError(t, stream.Send(&grpctesting.StreamingOutputCallRequest{Payload: sent}))
			got, err := stream.Recv()
			if !assert.NoError(t, err, "gRPC, client %s, upstream %s, message %d", client.name, upstream.name, i) {
				return
			}
			assert.Equal(t, sent.GetBody(), got.GetPayload().GetBody())
		}
	}
}
