// Package grpcenvoy is the door for Envoy: its Rate Limit Service v3 over gRPC, with health and reflection.
//
// A request's descriptors are decided by the policies that match them, or by a configuration of envoyproxy/ratelimit, and
// all of them pass or none takes anything. It promises an answer for whatever can be read: a store that fails is the
// policy's to judge, never an error, since Envoy lets pass what ends in an error unless it is told otherwise.
package grpcenvoy
