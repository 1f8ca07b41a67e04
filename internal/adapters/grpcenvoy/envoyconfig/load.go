package envoyconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile bounds the size of a file. It is far above what a person writes.
const maxFile = 4 << 20

// Load reads a file, or all .yaml and .yml files of a folder. The options apply to all rules. The error joins all errors of
// all files.
func Load(path string, options Options) (*Rules, error) {
	files, err := filesAt(path)
	if err != nil {
		return nil, err
	}
	rules, sum := &Rules{domains: map[string]*node{}}, sha256.New()
	var errs []error
	from := map[string]string{}
	for _, file := range files {
		text, err := readFile(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_, _ = fmt.Fprintf(sum, "%s\n%d\n%s", filepath.Base(file), len(text), text) // a hash never fails
		r := reader{file: file, options: options}
		name, root := r.read(text)
		if earlier, twice := from[name]; twice && name != "" {
			r.errs = append(r.errs, fmt.Errorf("%s: domain: %q: is also the domain of %s: a domain has one file", file, name, earlier))
		}
		from[name] = file
		rules.domains[name] = root
		rules.size += r.rules
		errs = append(errs, r.errs...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	rules.version = hex.EncodeToString(sum.Sum(nil)[:6])
	return rules, nil
}

// filesAt returns path if it is a file, or else the YAML files of the folder in the order of their names. It skips names that
// start with a dot, which Kubernetes uses for the versions of a mounted ConfigMap.
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
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: is larger than 4 MiB", path)
	}
	return text, nil
}
