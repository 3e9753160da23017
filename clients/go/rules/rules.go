// Package rules checks messages against the rules that the contract itself states (protovalidate).
package rules

import (
	"errors"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
)

// Violation is one rule that a message breaks.
type Violation struct {
	// Field is the path of the field, as in "slots[1].alpha"; empty for the message itself.
	Field string
	// Description says what the rule wants, without the value that broke it.
	Description string
	// Rule is the rule's id, as in "double.lte".
	Rule string
}

// Violations lists the rules that a message breaks, in the order of its fields; none for a valid one.
//
// The first message of a type takes milliseconds, in which its rules are compiled. It panics where the contract itself
// holds a rule that makes no sense: a mistake of whoever made the stubs, not of the message.
func Violations(message proto.Message) []Violation {
	err := protovalidate.Validate(message)
	if err == nil {
		return nil
	}
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		panic(err)
	}
	all := make([]Violation, len(broken.Violations))
	for place, violation := range broken.Violations {
		said := violation.Proto
		all[place] = Violation{
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
