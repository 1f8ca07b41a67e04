package calendar_test

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// On a system with another database of zones the periods are the same: here Europe/Berlin has the file of Asia/Tokyo, and
// time.LoadLocation would read that.
func TestMain(m *testing.M) {
	if err := os.Setenv("ZONEINFO", "testdata/zoneinfo"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// scripts/update-zones.sh replaces the database and its version together.
func TestZonesVersion_isThatOfTheDatabase(t *testing.T) {
	line, err := os.ReadFile("zoneinfo.version")
	require.NoError(t, err)
	version, recorded, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
	assert.Equal(t, version, calendar.ZonesVersion())
	assert.Regexp(t, `^20[0-9]{2}[a-z]$`, version)

	database, err := os.ReadFile("zoneinfo.zip")
	require.NoError(t, err)
	digest := sha256.Sum256(database)
	assert.Equal(t, hex.EncodeToString(digest[:]), recorded, "zoneinfo.zip was replaced without its version: run scripts/update-zones.sh")
}

func TestParse_readsEveryZone(t *testing.T) {
	files := databaseFiles(t)
	require.Greater(t, len(files), 500)
	for name := range files {
		_, err := calendar.Parse("day", name, "")
		assert.NoError(t, err)
	}
}

// databaseFiles reads the time-zone database without the package.
func databaseFiles(t *testing.T) map[string][]byte {
	t.Helper()
	archive, err := zip.OpenReader("zoneinfo.zip")
	require.NoError(t, err)
	defer archive.Close()
	files := make(map[string][]byte)
	for _, file := range archive.File {
		r, err := file.Open()
		require.NoError(t, err)
		files[file.Name], err = io.ReadAll(r)
		require.NoError(t, err)
	}
	return files
}
