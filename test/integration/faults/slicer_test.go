//go:build faults

package faults

import (
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
)

// slicer is the toxic "slices", which passes the data on in pieces of so many bytes, one every 10 us. Toxiproxy's own "slicer" waits without
// end for a connection that has ended meanwhile. Removing it then waits, too, and holds the lock of the whole link.
type slicer struct {
	Size int `json:"size"`
}

// Pipe implements toxics.Toxic.
func (s *slicer) Pipe(stub *toxics.ToxicStub) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			if !s.pass(stub, chunk) {
				return
			}
		}
	}
}

// pass passes a chunk on, and reports whether it was not interrupted. The rest is passed on all the same, unless it
// is not read for a second, as with toxiproxy's own toxics.
func (s *slicer) pass(stub *toxics.ToxicStub, chunk *stream.StreamChunk) bool {
	for rest := chunk.Data; len(rest) > 0; {
		n := min(s.Size, len(rest))
		select {
		case <-stub.Interrupt:
			_ = stub.WriteOutput(&stream.StreamChunk{Data: rest, Timestamp: chunk.Timestamp}, time.Second)
			return false
		case stub.Output <- &stream.StreamChunk{Data: rest[:n], Timestamp: chunk.Timestamp}:
			rest = rest[n:]
			time.Sleep(10 * time.Microsecond)
		}
	}
	return true
}
