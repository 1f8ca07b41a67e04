package httpfiber

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
)

// The time of a comparison must tell nothing of the token. A clock could not show that on a busy machine; that the
// token itself is not kept, and that its hash is compared by nothing else than crypto/subtle, can be seen.
func TestBearer_isComparedInConstantTime(t *testing.T) {
	kept := reflect.TypeFor[bearer]()
	for i := range kept.NumField() {
		assert.Contains(t, []reflect.Kind{reflect.Bool, reflect.Array}, kept.Field(i).Type.Kind(), kept.Field(i).Name)
	}

	file, err := parser.ParseFile(token.NewFileSet(), "auth.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var compared []string
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			for _, side := range []ast.Expr{n.X, n.Y} {
				assert.NotContains(t, text(side), "sum", "a hash is compared as it comes")
			}
		case *ast.CallExpr:
			if len(n.Args) == 2 && (text(n.Args[0]) == "sum" || text(n.Args[1]) == "sum") {
				compared = append(compared, text(n.Fun))
			}
		}
		return true
	})
	assert.Equal(t, []string{"subtle.ConstantTimeCompare"}, compared)
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
	b := newBearer("secret-token")
	for sent, pass := range map[string]bool{
		"Bearer secret-token": true, "bearer  secret-token": true,
		"Bearer secret-toke": false, "Bearer secret-token2": false, "Bearer Secret-token": false, "Bearer ": false,
		"Bearer": false, "Basic secret-token": false, "secret-token": false, "": false,
	} {
		var h fasthttp.RequestHeader
		h.Set(fasthttp.HeaderAuthorization, sent)
		assert.Equal(t, pass, b.check(&h) == nil, "%q", sent)
	}
	var twice fasthttp.RequestHeader
	twice.Add(fasthttp.HeaderAuthorization, "Bearer secret-token")
	twice.Add(fasthttp.HeaderAuthorization, "Bearer secret-token")
	assert.Error(t, b.check(&twice))
}
