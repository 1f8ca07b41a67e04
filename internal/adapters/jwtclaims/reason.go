package jwtclaims

// Reason says why a token is rejected. The zero value is that of a token that is believed.
type Reason uint8

// The reasons.
const (
	accepted      Reason = iota
	Twice                // the header was sent twice, or holds two tokens
	TooLong              // longer than MaxToken
	Malformed            // no JWT in its one canonical form: see Verifier
	Algorithm            // its algorithm is not accepted, or is not that of its key
	NoKeys               // no keys have been loaded yet
	UnknownKey           // its key is not in the set
	Signature            // its signature is wrong
	Expired              // the claim exp is in the past
	NotYetValid          // the claim nbf is in the future
	WrongIssuer          // the claim iss is not the issuer
	WrongAudience        // the claim aud has none of the audiences
	reasonsEnd
)

var reasonTexts = [reasonsEnd]struct{ name, meaning string }{
	accepted:      {"", ""},
	Twice:         {"twice", "the header was sent twice, or holds two tokens"},
	TooLong:       {"too_long", "it is longer than 8 KiB"},
	Malformed:     {"malformed", "it is no signed JWT in the form of RFC 7515: three parts of base64url without padding, of which the first two are JSON objects without repeated members, and with dates that are numbers"},
	Algorithm:     {"algorithm", "its algorithm is not accepted, or is not that of its key"},
	NoKeys:        {"no_keys", "no keys could be loaded yet"},
	UnknownKey:    {"unknown_key", "its key (kid) is not in the key set"},
	Signature:     {"signature", "its signature is not that of the key"},
	Expired:       {"expired", "its time (exp) is over"},
	NotYetValid:   {"not_yet_valid", "its time (nbf) has not come"},
	WrongIssuer:   {"issuer", "its issuer (iss) is not the one that is configured"},
	WrongAudience: {"audience", "its audience (aud) is not the one that is configured"},
}

// Reasons returns every reason for which a token can be rejected.
func Reasons() (all []Reason) {
	for r := accepted + 1; r < reasonsEnd; r++ {
		all = append(all, r)
	}
	return all
}

// String is the reason's name in metrics, such as not_yet_valid.
func (r Reason) String() string { return reasonTexts[r].name }

// Meaning is a sentence about the token, without its subject's name.
func (r Reason) Meaning() string { return reasonTexts[r].meaning }
