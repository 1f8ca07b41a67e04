// Package ports holds the interfaces between the core and the world, and the sentinel errors that cross them.
//
// [Limiter] is the driving port: inbound adapters call it. [BucketStore], [PolicySource] and [Observer] are
// driven: adapters implement them. The contract of each is a function of package porttest.
package ports
