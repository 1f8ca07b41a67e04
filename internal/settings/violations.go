package settings

// Violations returns the errors that err joins, at any depth. Any other error is returned as the only element.
func Violations(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var list []error
	for _, e := range joined.Unwrap() {
		list = append(list, Violations(e)...)
	}
	return list
}
