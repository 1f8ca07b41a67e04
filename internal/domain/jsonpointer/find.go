package jsonpointer

import "encoding/json"

// MaxText bounds the text that [Pointer.FindNumber] reads, in bytes.
const MaxText = 1 << 20

// FindNumber returns the whole number of at least 1 at p in a JSON text. Anything else is not found: a text that is no JSON
// or larger than [MaxText], no value at p, a value of another type, a negative number, 0, a number above 2^63-1 and one
// that is not whole. 1000.0 and 1e3 are whole. Of members with the same name in an object the last one counts.
func (p Pointer) FindNumber(body []byte) (n int64, found bool) {
	n = FindNumbers(body, p)[0]
	return n, n > 0
}

// FindNumbers does what [Pointer.FindNumber] does for several pointers, and reads the text once. numbers[i] is at pointers[i], or 0
// if nothing is found there.
func FindNumbers(body []byte, pointers ...Pointer) (numbers []int64) {
	numbers = make([]int64, len(pointers))
	if len(body) == 0 || len(body) > MaxText || !json.Valid(body) {
		return numbers
	}
	fields := make([][]Pointer, len(pointers))
	for i := range pointers {
		fields[i] = pointers[i : i+1]
	}
	set := NewSet(fields...)
	set.elements = false
	s := NewScanner(set)
	s.Write(body)
	for i := range numbers {
		if v := s.Value(i); v.Kind == Whole && v.Number >= 1 {
			numbers[i] = v.Number
		}
	}
	return numbers
}
