FROM golang:1.26-bookworm AS build
WORKDIR /src
# Dependencies change less often than the code: their layer stays cached.
COPY go.mod go.sum ./
RUN go mod download
COPY cmd ./cmd
COPY internal ./internal
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/velocity ./cmd/api

# Certificates of public authorities, time zones and a user that is not root; no shell, no package manager.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/velocity /velocity
# The program writes no file: run it with a read-only root.
USER nonroot:nonroot
EXPOSE 3000
# Asks /healthz of the admin plane, on loopback inside the container.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/velocity", "healthcheck"]
ENTRYPOINT ["/velocity"]
