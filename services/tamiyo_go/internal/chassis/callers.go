package chassis

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	// burstS is how many seconds' calls a caller may begin at once who was silent; one call in any case.
	burstS = 2.0
	// strangersWatches are how many watches of health callers without a token may have open, all of them together.
	strangersWatches = 32
	strangers        = "everybody without a token"
	forgetting       = 1024
	ipv6Network      = 64
)

// limits counts calls: how many are open, and of each caller how many, and how fast they come.
//
// The rate is held by the generic cell rate algorithm (ITU-T I.371): of each caller only the time is kept at which the calls
// so far would have been due.
type limits struct {
	callsPerS    float64 // of one caller; 0: any number
	openCalls    int     // of one caller
	allOpenCalls int
	now          func() float64 // seconds from whenever

	mu           sync.Mutex
	open         map[string]int
	allOpen      int
	due          map[string]float64
	forgetBeyond int
}

func newLimits(settings Settings) *limits {
	started := time.Now()
	ofOne := settings.MaxConcurrentRPCsPerCaller
	if ofOne == 0 {
		ofOne = settings.MaxConcurrentRPCs
	}
	return &limits{
		callsPerS:    settings.CallsPerSPerCaller,
		openCalls:    ofOne,
		allOpenCalls: settings.MaxConcurrentRPCs,
		now:          func() float64 { return time.Since(started).Seconds() },
		open:         make(map[string]int),
		due:          make(map[string]float64),
		forgetBeyond: forgetting,
	}
}

// begin begins a call, which is open until end. The error is a [*Refusal]: TOO_MANY_CALLS, CALLER_TOO_FAST or
// TOO_MANY_CALLS_OF_CALLER.
func (l *limits) begin(caller string) (end func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.allOpen >= l.allOpenCalls {
		limit := strconv.Itoa(l.allOpenCalls)
		return nil, &Refusal{
			Reason:  TooManyCalls,
			Message: fmt.Sprintf("the server has %s calls open already, and takes no more at once", limit),
			Facts:   Facts{"limit": limit},
		}
	}
	if err := l.count(caller); err != nil {
		return nil, err
	}
	if err := l.oneMore(caller, l.openCalls); err != nil {
		return nil, err
	}
	l.allOpen++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.allOpen--
		l.oneLess(caller)
	}, nil
}

// beginWatch begins a watch of health by somebody without a token: it takes no place from those who have one. The error is
// TOO_MANY_CALLS_OF_CALLER.
func (l *limits) beginWatch() (end func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.oneMore(strangers, strangersWatches); err != nil {
		return nil, err
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.oneLess(strangers)
	}, nil
}

func (l *limits) oneMore(caller string, most int) error {
	if l.open[caller] >= most {
		limit := strconv.Itoa(most)
		return &Refusal{
			Reason:  TooManyCallsOfCaller,
			Message: fmt.Sprintf("%s has %s calls open already, and is let have no more at once", caller, limit),
			Facts:   Facts{"caller": caller, "limit": limit},
		}
	}
	l.open[caller]++
	return nil
}

func (l *limits) oneLess(caller string) {
	if l.open[caller]--; l.open[caller] == 0 {
		delete(l.open, caller)
	}
}

func (l *limits) count(caller string) error {
	if l.callsPerS == 0 {
		return nil
	}
	interval, now := 1/l.callsPerS, l.now()
	ahead := max(l.due[caller]-now, 0) + interval
	if ahead > max(burstS, interval) {
		limit := strconv.FormatFloat(l.callsPerS, 'g', -1, 64)
		return &Refusal{
			Reason:  CallerTooFast,
			Message: fmt.Sprintf("%s calls more often than %s times a second", caller, limit),
			Facts:   Facts{"caller": caller, "limit": limit},
		}
	}
	l.due[caller] = now + ahead
	if len(l.due) > l.forgetBeyond {
		// Whoever is due nothing is as one who never called. Of the others there may be many: to look at all of them is left
		// until there are twice as many.
		maps.DeleteFunc(l.due, func(_ string, due float64) bool { return due <= now })
		l.forgetBeyond = max(forgetting, 2*len(l.due))
	}
	return nil
}

// networkOf is who calls where nobody says who he is: as much of the address as one cannot easily choose. That is an IPv4
// address; of an IPv6 address the first 64 bits, since the others are its owner's to choose (RFC 4291, section 2.5.4); and
// all of loopback together.
func networkOf(host string) string {
	address, err := netip.ParseAddr(host)
	if err != nil {
		// A Unix socket.
		return host
	}
	address = address.Unmap().WithZone("")
	switch {
	case address.IsLoopback():
		return "this machine"
	case address.Is4():
		return address.String()
	}
	network, err := address.Prefix(ipv6Network)
	if err != nil {
		panic(err) // an IPv6 address has 128 bits
	}
	return network.String()
}
