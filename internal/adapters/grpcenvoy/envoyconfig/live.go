package envoyconfig

import (
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/filewatch"
)

// Live holds the rules of a file or of a folder whose content may change. A request sees either all old rules or all new ones.
type Live = filewatch.Live[Rules]

// Open loads what [Load] loads, which must have no errors. Call [filewatch.Live.Watch] to follow changes: files that are changed,
// added or removed. In a folder, one broken file keeps the old rules of all files.
func Open(path string, options Options, log *zap.Logger) (*Live, error) {
	return filewatch.Open(filewatch.Source[Rules]{
		Path: path, Files: filesAt,
		Load: func(func(string)) (*Rules, error) { return Load(path, options) },
		Log:  log, Reloaded: "Envoy's rules are reloaded",
		NotReloaded: "Envoy's rules are not reloaded: the earlier rules stay in force",
		Fields: func(before, loaded *Rules) []zap.Field {
			return []zap.Field{
				zap.String("version", loaded.version), zap.Int("rules", loaded.size), zap.Bool("changed", before.version != loaded.version),
			}
		},
		Lines: linesOf,
	})
}

// linesOf lists the errors that Load joins.
func linesOf(err error) []string {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var lines []string
	for _, each := range joined.Unwrap() {
		lines = append(lines, linesOf(each)...)
	}
	return lines
}
