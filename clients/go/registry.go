package leyline

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	"leyline/clients/go/leylinev1"
)

// Registry knows policy versions.
type Registry struct {
	stub leylinev1.PolicyRegistryServiceClient
}

// NewRegistry calls the registry at the other end of a connection. It may be used by several goroutines at once.
func NewRegistry(connection grpc.ClientConnInterface) *Registry {
	return &Registry{leylinev1.NewPolicyRegistryServiceClient(connection)}
}

// Policy is a version in a registry.
type Policy struct {
	Manifest *leylinev1.PolicyManifest
	// Active says whether episodes that begin now are pinned to it.
	Active bool
}

// Policies yields all versions, newest first. An error, an [*Error] or that of the context, is the last thing that it
// yields.
func (r *Registry) Policies(ctx context.Context) iter.Seq2[Policy, error] {
	return func(yield func(Policy, error) bool) {
		request := &leylinev1.ListPoliciesRequest{}
		for {
			page, err := r.stub.ListPolicies(ctx, request)
			if err != nil {
				yield(Policy{}, callError(ctx, err))
				return
			}
			for _, manifest := range page.GetPolicies() {
				if !yield(Policy{manifest, manifest.GetPolicyVersion() == page.GetActiveVersion()}, nil) {
					return
				}
			}
			request = &leylinev1.ListPoliciesRequest{PageToken: page.GetNextPageToken()}
			if page.GetNextPageToken() == "" {
				return
			}
		}
	}
}
