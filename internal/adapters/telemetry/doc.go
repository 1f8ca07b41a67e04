// Package telemetry tells operators what the service does: structured logs, one JSON object per line.
//
// A log line never waits for the disk. Lines go to a buffer, from there in chunks to a goroutine that alone writes
// them, each second at the latest. What waits is bounded: while the output takes nothing, later chunks are dropped
// and counted, and the first line after it recovers says how many lines are missing. [Logger.Close] writes what is
// left. A process that is killed loses its last second.
package telemetry
