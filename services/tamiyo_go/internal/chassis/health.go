package chassis

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// health is the standard health service: one answer for all services of a server, because they live and die together.
//
// gRPC's own says SERVING for "" from the start, and its open watches hold a drain for the whole grace.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	services []string

	mu      sync.Mutex
	serving bool
	ended   bool
	changed chan struct{}
}

// newHealth starts at NOT_SERVING, for services by their full names and for "", the server as a whole.
func newHealth(services []string) *health {
	return &health{services: append(services, ""), changed: make(chan struct{})}
}

// open says SERVING from now on.
func (h *health) open() { h.set(true, false) }

// end says NOT_SERVING for good, and ends every watch after it has said so.
func (h *health) end() { h.set(false, true) }

func (h *health) set(serving, ended bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serving, h.ended = serving, ended
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *health) now(service string) (said grpc_health_v1.HealthCheckResponse_ServingStatus, ended bool, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	said = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if !slices.Contains(h.services, service) {
		said = grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN
	} else if h.serving {
		said = grpc_health_v1.HealthCheckResponse_SERVING
	}
	return said, h.ended, h.changed
}

// Check answers once; NOT_FOUND for a service that is not here, as the protocol wants it.
func (h *health) Check(_ context.Context, request *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	said, _, _ := h.now(request.GetService())
	if said == grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Errorf(codes.NotFound, "no service %q is served here", request.GetService())
	}
	return &grpc_health_v1.HealthCheckResponse{Status: said}, nil
}

// Watch answers now and at every change; SERVICE_UNKNOWN for a service that is not here.
func (h *health) Watch(
	request *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse],
) error {
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	for {
		said, ended, changed := h.now(request.GetService())
		if said != last {
			last = said
			if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: said}); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
