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
// The first message of a type takes milliseconds, in which its rules are compiled. It panics where the contract itself
// holds a rule that makes no sense: a mistake of whoever made the stubs, not of the message.
func Violations(message proto.Message) []leyline.Violation {
	err := protovalidate.Validate(message)
	if err == nil {
		return nil
	}
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		panic(err)
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
	return all
}
