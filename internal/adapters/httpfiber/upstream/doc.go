// Package upstream asks one HTTP/1.1 server on behalf of clients: it keeps connections to it, sends requests whose
// bodies may still be arriving, and hands the answers on as they come. The bytes of HTTP are read by fasthttp.
//
// What it promises:
//
//   - A request is sent once. A connection that the server has closed meanwhile is recognised before anything is
//     written to it; what may have reached the server is never sent again.
//   - Nothing waits for ever: for a connection and for the answer's header there is a time; a body may take as long as
//     it likes while the client is there, and ends soon after the client has gone.
//   - Memory is bounded, whatever the size of a body.
//   - An answer that breaks off is an error at the end of its body, never an early end.
//
// It does not decide what is sent: the caller brings the head of the request.
package upstream
