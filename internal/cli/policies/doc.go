// Package policies has the subcommands that work on policy files alone: validate, explain and simulate.
package policies
