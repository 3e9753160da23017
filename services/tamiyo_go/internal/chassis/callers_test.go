package chassis

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// timed are limits whose clock a test sets.
func timed(callsPerS float64, open int) (l *limits, now *float64) {
	l = newLimits(Settings{CallsPerSPerCaller: callsPerS, MaxConcurrentRPCs: open})
	now = new(float64)
	l.now = func() float64 { return *now }
	return l, now
}

// isLetIn says whether a caller is let begin a call, which ends at once.
func isLetIn(t *testing.T, l *limits, caller string) bool {
	t.Helper()
	end, err := l.begin(caller)
	if err == nil {
		end()
		return true
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Reason != CallerTooFast {
		t.Errorf("got %v", err)
	}
	return false
}

func TestACallerIsLetBeginItsRateAndOneBurstWhateverOthersDo(t *testing.T) {
	for _, rate := range []float64{0.1, 0.4, 0.5, 1, 10} {
		l, now := timed(rate, 100)
		*now = 12345.678
		burst := max(1, int(burstS*rate+1e-9))
		for _, caller := range []string{"one", "another"} {
			var first []bool
			for range burst + 2 {
				first = append(first, isLetIn(t, l, caller))
			}
			// Rounding may cost the last one of it.
			if let := slices.Index(first, false); let > burst || let < max(1, burst-1) {
				t.Errorf("at %g a second: %v", rate, first)
			}
		}
		more := 0
		for range 20 {
			*now += 1.001 / rate
			if !isLetIn(t, l, "one") {
				t.Errorf("at %g a second it is not one call each time", rate)
			}
			if isLetIn(t, l, "one") {
				more++
			}
		}
		if more > 1 {
			t.Errorf("at %g a second it is %d calls too many", rate, more)
		}
	}
	if l, _ := timed(0, 1); !isLetIn(t, l, "one") || !isLetIn(t, l, "one") {
		t.Error("without a rate there is one")
	}
}

func TestCallersThatAreDueNothingAreForgotten(t *testing.T) {
	l, now := timed(1, 1)
	for caller := range 5000 {
		*now++
		if !isLetIn(t, l, fmt.Sprint(caller)) {
			t.Fatal("it is refused")
		}
	}
	if len(l.due) > forgetting+1 {
		t.Errorf("%d are kept", len(l.due))
	}
}

func TestWatchesOfStrangersAreCountedApartFromCalls(t *testing.T) {
	l, _ := timed(0, 1)
	var ends []func()
	for range strangersWatches {
		end, err := l.beginWatch()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	var refusal *Refusal
	if _, err := l.beginWatch(); !errors.As(err, &refusal) || refusal.Reason != TooManyCallsOfCaller ||
		refusal.Message != "everybody without a token has 32 calls open already, and is let have no more at once" ||
		refusal.Reason.retryAfter != time.Second/2 {
		t.Errorf("got %v", err)
	}
	if !isLetIn(t, l, "one") {
		t.Error("they take places from calls")
	}
	for _, end := range ends {
		end()
	}
	if end, err := l.beginWatch(); err != nil {
		t.Error(err)
	} else {
		end()
	}
	if len(l.open) != 0 || l.allOpen != 0 {
		t.Errorf("open are still %v", l.open)
	}
}

func TestACallerWithoutATokenIsKnownByAsMuchOfItsAddressAsItCannotChoose(t *testing.T) {
	for host, want := range map[string]string{
		"10.0.0.7":             "10.0.0.7",
		"127.0.0.1":            "this machine",
		"127.8.9.10":           "this machine",
		"::1":                  "this machine",
		"2001:db8:0:5:a:b:c:d": "2001:db8:0:5::/64",
		"2001:db8:0:5::2":      "2001:db8:0:5::/64",
		"fe80::1%eth0":         "fe80::/64",
		"::ffff:10.0.0.7":      "10.0.0.7",
		"unix:":                "unix:",
	} {
		if got := networkOf(host); got != want {
			t.Errorf("%s is known by %s, want %s", host, got, want)
		}
	}
}
