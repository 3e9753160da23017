package rules_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"leyline/clients/go/internal/golden"
	_ "leyline/clients/go/leylinev1"
	"leyline/clients/go/rules"
)

type violation struct {
	Field string
	Rule  string `json:"rule_id"`
}

func TestAnInvalidMessageGetsExactlyItsViolations(t *testing.T) {
	for _, file := range golden.Files(t, "invalid/*.json") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var expected struct {
				Type       protoreflect.FullName
				Message    json.RawMessage
				Violations []violation
			}
			golden.Read(t, file, &expected)
			kind, err := protoregistry.GlobalTypes.FindMessageByName(expected.Type)
			if err != nil {
				t.Fatal(err)
			}
			message := kind.New().Interface()
			golden.Parse(t, expected.Message, message)
			all, err := rules.Violations(message)
			if err != nil {
				t.Fatal(err)
			}
			var found []violation
			for _, broken := range all {
				if broken.Description == "" {
					t.Errorf("%s does not say what it wants", broken.Rule)
				}
				found = append(found, violation{broken.Field, broken.Rule})
			}
			slices.SortFunc(found, func(a, b violation) int {
				return strings.Compare(a.Field+"\x00"+a.Rule, b.Field+"\x00"+b.Rule)
			})
			if !slices.Equal(found, expected.Violations) {
				t.Errorf("\n got %v\nwant %v", found, expected.Violations)
			}
		})
	}
}
