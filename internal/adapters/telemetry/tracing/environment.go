package tracing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// The standard variables that are read here. The SDK and the exporters read others, and ignore wrong values.
const (
	envDisabled       = "OTEL_SDK_DISABLED"
	envExporter       = "OTEL_TRACES_EXPORTER"
	envSampler        = "OTEL_TRACES_SAMPLER"
	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	envTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
)

const (
	protocolHTTP = "http/protobuf"
	protocolGRPC = "grpc"
)

var samplers = []string{
	"always_on", "always_off", "traceidratio",
	"parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
}

// wanted reports whether the environment asks for traces: by OTEL_TRACES_EXPORTER or, if that is not set, by an endpoint. If
// traces are on, the error reports every wrong variable.
func wanted() (bool, error) {
	exporter := os.Getenv(envExporter)
	if strings.EqualFold(os.Getenv(envDisabled), "true") || exporter == "none" {
		return false, nil
	}
	if exporter == "" && os.Getenv(envEndpoint) == "" && os.Getenv(envTracesEndpoint) == "" {
		return false, nil
	}
	return true, errors.Join(
		oneOf(envExporter, "otlp", "none"),
		oneOf(envProtocol, protocolHTTP, protocolGRPC),
		oneOf(envTracesProtocol, protocolHTTP, protocolGRPC),
		oneOf(envSampler, samplers...),
		endpoint(envEndpoint),
		endpoint(envTracesEndpoint),
	)
}

func oneOf(variable string, values ...string) error {
	value := os.Getenv(variable)
	if value == "" || slices.Contains(values, value) {
		return nil
	}
	return fmt.Errorf("%s: %q: must be one of %s", variable, value, strings.Join(values, ", "))
}

func endpoint(variable string) error {
	value := os.Getenv(variable)
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%s: must be an http:// or https:// URL", variable) // without the value, which may hold a password
	}
	return nil
}

func newExporter(ctx context.Context) (sdk.SpanExporter, error) {
	if cmp.Or(os.Getenv(envTracesProtocol), os.Getenv(envProtocol)) == protocolGRPC {
		return otlptracegrpc.New(ctx)
	}
	return otlptracehttp.New(ctx)
}
