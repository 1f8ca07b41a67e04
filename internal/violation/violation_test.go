package violation_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/violation"
)

func TestRename_givesEverySettingItsName(t *testing.T) {
	var l violation.List
	require.NoError(t, l.Err())
	l.Add("USER", `"bob {PASSWORD}"`, "needs {PASSWORD}")
	l.AddError(&violation.Error{Setting: "CA_FILE", Reason: "cannot be read", Cause: fs.ErrNotExist})
	l.AddError(nil)
	l.AddError(errors.Join(&violation.Error{Setting: "AGE", Value: "0s", Reason: "must be positive"}))
	other := fmt.Errorf("%w: {PASSWORD}", fs.ErrExist)
	l.AddError(other)

	require.EqualError(t, l.Err(), "USER: \"bob {PASSWORD}\": needs PASSWORD\nCA_FILE: cannot be read: file does not exist\n"+
		"AGE: 0s: must be positive\nfile already exists: {PASSWORD}")
	renamed := violation.Rename(l.Err(), func(setting string) string { return "MY_" + setting })
	require.EqualError(t, renamed, "MY_USER: \"bob {PASSWORD}\": needs MY_PASSWORD\nMY_CA_FILE: cannot be read: file does not exist\n"+
		"MY_AGE: 0s: must be positive\nfile already exists: {PASSWORD}")
	require.ErrorIs(t, renamed, fs.ErrNotExist)
	require.ErrorIs(t, renamed, other)

	assert.NoError(t, violation.Rename(nil, nil))
	assert.Equal(t, other, violation.Rename(other, nil), "there is nothing to rename")
}
