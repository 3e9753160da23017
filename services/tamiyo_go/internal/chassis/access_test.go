package chassis

import "testing"

func TestWhatTheContractDoesNotKnowIsForOperators(t *testing.T) {
	trainer, operator := caller{"a", []string{"trainer"}}, caller{"b", []string{"operator"}}
	for method, forTrainers := range map[string]bool{
		"/leyline.v1.PolicyService/Decide":                               true,
		"/leyline.v1.PolicyService/NoSuchMethod":                         false,
		"/somebody.Else/Do":                                              false,
		"/leyline.v1/DecideRequest":                                      false, // a message
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      true,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": true,
	} {
		if trainer.may(method) != forTrainers || !operator.may(method) {
			t.Errorf("%s: a trainer %v, an operator %v", method, trainer.may(method), operator.may(method))
		}
	}
}
