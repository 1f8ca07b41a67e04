// Package app is the use case: it finds a request's policy, asks the store, and decides what a failure of the
// store means. It knows neither HTTP nor Redis.
package app
