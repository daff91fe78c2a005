// Random numbers for environments: SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
// number generators"). The state is one 64-bit number, so a copy's stream is saved with the copy as bytes.
#ifndef RNG_H
#define RNG_H
#include <stdint.h>

typedef struct Rng {
    uint64_t state;
} Rng;

static inline uint64_t rng_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline uint64_t rng_next(Rng *rng) { return rng_mix(rng->state += 0x9E3779B97F4A7C15u); }

// A stream of its own for every pair of seed and stream number.
static inline Rng rng_seed(uint64_t seed, uint64_t stream) {
    return (Rng){rng_mix(rng_mix(seed + 0x9E3779B97F4A7C15u) + stream * 0xD1B54A32D192ED03u)};
}

// Uniform integer in [0, n), n >= 1, by multiplication (Lemire 2019); the bias is below n / 2^32.
static inline int rng_int(Rng *rng, int n) { return (int)(((rng_next(rng) >> 32) * (uint64_t)n) >> 32); }

// Uniform float in [0, 1), 24 bits.
static inline float rng_float(Rng *rng) { return (float)(rng_next(rng) >> 40) * 0x1p-24f; }

#endif
