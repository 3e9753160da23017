package leyline

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// SamplingSeed returns a decision's sampling_seed, all the randomness that it has, from the run's own seed and the step's
// place: the first 8 bytes, big-endian, of the SHA-256 of a text that any language can write.
func SamplingSeed(runSeed uint64, episodeIndex, step uint32) uint64 {
	digest := sha256.Sum256(fmt.Appendf(nil, "leyline/sampling/1:%d:%d:%d", runSeed, episodeIndex, step))
	return binary.BigEndian.Uint64(digest[:])
}
