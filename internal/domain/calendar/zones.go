package calendar

import (
	"archive/zip"
	"bytes"
	_ "embed" // the files below
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// The time-zone database, as a Go release has it in lib/time. scripts/update-zones.sh replaces both files.
var (
	//go:embed zoneinfo.zip
	zoneinfo []byte
	// A line with the version of the database and the SHA-256 of zoneinfo.zip.
	//go:embed zoneinfo.version
	zoneinfoVersion string
)

// ZonesVersion returns the version of the time-zone database, for example "2025c".
func ZonesVersion() string {
	version, _, _ := strings.Cut(zoneinfoVersion, " ")
	return version
}

// zoneFiles holds the files of the database by their names. A zone's file is named as the zone is.
var zoneFiles = sync.OnceValue(func() map[string]*zip.File {
	archive, err := zip.NewReader(bytes.NewReader(zoneinfo), int64(len(zoneinfo)))
	if err != nil {
		panic(fmt.Sprintf("calendar: the embedded time-zone database: %v", err))
	}
	files := make(map[string]*zip.File, len(archive.File))
	for _, f := range archive.File {
		files[f.Name] = f
	}
	return files
})

// locations holds the zones that were loaded, *time.Location by name: at most one for each name in the database.
var locations sync.Map

// loadZone returns the zone with that name. It reports false if the database has none.
func loadZone(name string) (*time.Location, bool) {
	if loc, loaded := locations.Load(name); loaded {
		return loc.(*time.Location), true
	}
	file, exists := zoneFiles()[name]
	if !exists {
		return nil, false
	}
	loc, err := readZone(file)
	if err != nil {
		panic(fmt.Sprintf("calendar: the embedded time-zone database: %s: %v", name, err))
	}
	locations.Store(file.Name, loc)
	return loc, true
}

func readZone(file *zip.File) (*time.Location, error) {
	r, err := file.Open()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return time.LoadLocationFromTZData(file.Name, data)
}

// similarZones returns the names, sorted, that differ from name only in case, in spaces for underscores, or in a
// missing region: Europe/Berlin for "berlin".
func similarZones(name string) []string {
	name = strings.ReplaceAll(strings.ToLower(name), " ", "_")
	var similar []string
	for _, zone := range slices.Sorted(maps.Keys(zoneFiles())) {
		lower := strings.ToLower(zone)
		if lower == name || name != "" && strings.HasSuffix(lower, "/"+name) {
			similar = append(similar, zone)
		}
	}
	return similar
}
