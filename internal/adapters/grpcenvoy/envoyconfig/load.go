package envoyconfig

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// maxFile bounds a file's size: far more than a person writes.
const maxFile = 4 << 20

// Load reads a file, or all .yaml and .yml files of a folder. failure is what the rules do while the store fails. The
// error joins everything that is wrong.
func Load(path string, failure domain.FailureMode) (*Rules, error) {
	files, err := filesAt(path)
	if err != nil {
		return nil, err
	}
	rules := &Rules{domains: map[string]*node{}}
	var errs []error
	from := map[string]string{}
	for _, file := range files {
		text, err := readFile(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r := reader{file: file, failure: failure}
		name, root := r.read(text)
		if earlier, twice := from[name]; twice && name != "" {
			r.errs = append(r.errs, fmt.Errorf("%s: domain: %q: is that of %s, too: a domain has one file", file, name, earlier))
		}
		from[name] = file
		rules.domains[name] = root
		rules.size += r.rules
		errs = append(errs, r.errs...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return rules, nil
}

// filesAt lists a file, or the YAML files of a folder in the order of their names. Names that begin with a dot are
// passed over: a mounted ConfigMap keeps its versions so.
func filesAt(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	list, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, item := range list {
		name := item.Name()
		if slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(name)) && !strings.HasPrefix(name, ".") {
			files = append(files, filepath.Join(path, name))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: there is no .yaml file in this folder", path)
	}
	return files, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: is larger than 4 MiB", path)
	}
	return text, nil
}
