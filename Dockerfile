# syntax=docker/dockerfile:1

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /reauth ./cmd/reauth

# Nothing but the program, CA certificates, time zones and an unprivileged user.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /reauth /usr/local/bin/reauth
USER nonroot:nonroot
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/reauth"]
CMD ["serve"]
