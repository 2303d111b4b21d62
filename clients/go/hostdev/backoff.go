package hostdev

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstPause   = 250 * time.Millisecond
	longestPause = 30 * time.Second
)

// pacer pauses between attempts. Its functions stand in for the clock and for chance in tests.
type pacer struct {
	sleep  func(context.Context, time.Duration) error
	chance func() float64 // 0 to 1
}

var realPacer = pacer{sleep, rand.Float64}

// pause is how long to wait after so many failures in a row: doubling, jittered, at least what the server asks.
func (p pacer) pause(failures int, asked time.Duration) time.Duration {
	chance := p.chance()
	backedOff := min(longestPause, firstPause<<min(failures-1, 10))
	return max(scaled(backedOff, 0.5+chance/2), scaled(asked, 1+chance/2))
}

func scaled(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) * factor)
}

// sleep returns the context's error when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
