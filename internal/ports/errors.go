package ports

import (
	"errors"
	"fmt"
)

var (
	// ErrUnavailable says that the store could not be reached, did not answer in time or answered nonsense. The
	// operation may or may not have been carried out, so it must not be sent again.
	ErrUnavailable = errors.New("store unavailable")
	// ErrOverloaded says that this process itself refused the operation, because too much is waiting already. It was
	// not carried out, and it says nothing about the store's health.
	ErrOverloaded = errors.New("too much is waiting for the store")
	// ErrCorrupt says that what the store holds for this key is not a bucket group. Nothing was carried out.
	ErrCorrupt = errors.New("stored bucket is not readable")
	// ErrInvalidTake says that the request itself cannot be carried out: no limits, a zero limit, an empty key, a
	// cost out of range. Nothing was carried out.
	ErrInvalidTake = errors.New("invalid take")
	// ErrUnknownPolicy says that no policy has the name asked for.
	ErrUnknownPolicy = errors.New("unknown policy")
)

func invalidTake(reason string) error { return fmt.Errorf("%w: %s", ErrInvalidTake, reason) }
