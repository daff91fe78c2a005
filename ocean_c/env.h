// What every environment's header includes first: the rows it reads and writes, its random numbers, drawing.
#ifndef ENV_H
#define ENV_H
#include <stdint.h>
#include <string.h>
#include "rng.h"
#include "draw.h"

// Pointers to the rows of one copy. An environment with several agents indexes them by agent; the observation
// type is whatever its Python file declares.
typedef struct Rows {
    void *observations;
    const void *actions; // int64_t, or float where the action space is a Box
    float *rewards;
    uint8_t *terminals;       // 1 at a true end of an episode
    uint8_t *truncations;     // 1 at a cut; never both
    void *final_observations; // written at a cut only: what the old episode ended with
} Rows;

#endif
