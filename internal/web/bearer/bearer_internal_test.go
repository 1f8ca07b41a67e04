package bearer

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The time of a comparison must reveal nothing about the tokens. Measuring it would be unreliable on a busy machine, so the
// test checks that a token itself is not kept, that only crypto/subtle compares its hash, and that the comparisons do not end
// at the right token.
func TestBearer_isComparedInConstantTime(t *testing.T) {
	kept := reflect.TypeFor[entry]()
	for i := range kept.NumField() {
		if name := kept.Field(i).Name; name != "name" {
			assert.Equal(t, reflect.Array, kept.Field(i).Type.Kind(), name)
		}
	}

	file, err := parser.ParseFile(token.NewFileSet(), "bearer.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var compared []string
	looped := false
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			for _, side := range []ast.Expr{n.X, n.Y} {
				assert.NotContains(t, text(side), "sum", "a hash is compared as it comes")
			}
		case *ast.RangeStmt:
			if text(n.X) == "valid" {
				ast.Inspect(n.Body, func(inner ast.Node) bool {
					switch inner.(type) {
					case *ast.BranchStmt, *ast.ReturnStmt, *ast.IfStmt:
						assert.Fail(t, "the loop over the tokens ends early, or does less for some")
					}
					return true
				})
				looped = true
			}
		case *ast.CallExpr:
			if len(n.Args) == 2 && (text(n.Args[0]) == "sum" || text(n.Args[1]) == "sum") {
				compared = append(compared, text(n.Fun))
			}
		}
		return true
	})
	assert.Equal(t, []string{"subtle.ConstantTimeCompare"}, compared)
	assert.True(t, looped)
}

// text is the name that an expression comes down to.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return text(e.X) + "." + e.Sel.Name
	case *ast.SliceExpr:
		return text(e.X)
	}
	return ""
}

func TestBearer_onlyTheWholeTokenPasses(t *testing.T) {
	tokens := New("secret-token")
	for sent, pass := range map[string]bool{
		"Bearer secret-token": true, "bearer  secret-token": true,
		"Bearer secret-toke": false, "Bearer secret-token2": false, "Bearer Secret-token": false, "Bearer ": false,
		"Bearer": false, "Basic secret-token": false, "secret-token": false, "": false,
	} {
		name, err := tokens.Check([][]byte{[]byte(sent)})
		assert.Equal(t, pass, err == nil, "%q", sent)
		assert.Equal(t, pass, name == DefaultName, "%q", sent)
	}
	right := []byte("Bearer secret-token")
	_, err := tokens.Check([][]byte{right, right})
	require.Error(t, err)
	_, err = tokens.Check(nil)
	assert.Error(t, err)
}
