// Package admin has the subcommands that ask the admin plane of nodes that run: healthcheck, status, top, inspect, reset and override.
package admin
