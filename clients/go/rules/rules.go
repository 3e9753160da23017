// Package rules checks messages against the rules that the contract itself states (protovalidate).
package rules

import (
	"errors"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	leyline "leyline/clients/go"
)

// Violations lists the rules that a message breaks, in the order of its fields; none for a valid one.
//
// The first message of a type takes milliseconds, in which its rules are compiled. The error says that a rule itself makes
// no sense or cannot be computed: a mistake of the contract's.
func Violations(message proto.Message) ([]leyline.Violation, error) {
	err := protovalidate.Validate(message)
	if err == nil {
		return nil, nil
	}
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		return nil, err
	}
	all := make([]leyline.Violation, len(broken.Violations))
	for place, violation := range broken.Violations {
		said := violation.Proto
		all[place] = leyline.Violation{
			Field:       protovalidate.FieldPathString(said.GetField()),
			Description: said.GetMessage(),
			Rule:        said.GetRuleId(),
		}
		if all[place].Description == "" {
			all[place].Description = said.GetRuleId()
		}
	}
	return all, nil
}
