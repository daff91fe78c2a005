// Squared: walk from the middle of a grid to a target on its border. The documented template: to make an
// environment, copy this file and envs/squared.py, and change what they do.
//
// Observation  size x size signed bytes: 0 empty, 1 the agent, -1 the target.
// Actions      0 stay, 1 up, 2 down, 3 left, 4 right; the border stops a step.
// Reward       1 on reaching the target.
// Episode      ends on the target, or is cut after max_steps.
// Score        1 if the target was reached, else 0.
#ifndef SQUARED_H
#define SQUARED_H
#include "env.h"

// The knobs: plain numbers. Their defaults and limits stand in envs/squared.py.
typedef struct SquaredConfig {
    int size;
    int max_steps;
} SquaredConfig;

// Sums over finished episodes, floats only; the first five are there in every environment.
typedef struct SquaredLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
} SquaredLog;

// The whole state of one copy: no pointers, so that a copy is saved and restored as bytes.
typedef struct Squared {
    Rng rng;
    int row, column; // of the agent
    int target;      // cell: row * size + column
    int steps;
    SquaredLog log;
} Squared;

// How many agents, so rows, a copy has, and the bytes of one observation: its type here, in the functions
// below and in envs/squared.py must be the same.
static inline int squared_agents(const SquaredConfig *config) {
    (void)config;
    return 1;
}
static inline int squared_observation_bytes(const SquaredConfig *config) {
    return config->size * config->size * (int)sizeof(int8_t);
}

// Once, when the vector is seeded; everything not set here is zero.
static inline void squared_init(Squared *squared, const SquaredConfig *config, Rng rng) {
    (void)config;
    squared->rng = rng;
}

// A new episode. Must set every field but rng and log, and write the observation row.
static inline void squared_reset(Squared *squared, const SquaredConfig *config, Rows rows) {
    const int size = config->size, last = size - 1;
    const int along = rng_int(&squared->rng, last), side = rng_int(&squared->rng, 4);
    const int row = side == 0 ? 0 : side == 1 ? last : side == 2 ? along + 1 : along;
    const int column = side == 0 ? along : side == 1 ? along + 1 : side == 2 ? 0 : last;
    squared->row = squared->column = size / 2;
    squared->target = row * size + column;
    squared->steps = 0;

    int8_t *observations = rows.observations;
    memset(observations, 0, (size_t)(size * size));
    observations[squared->target] = -1;
    observations[squared->row * size + squared->column] = 1;
}

// One step. Must write reward, terminal and truncation, and the observation row, which here only differs in
// two cells. The last step of an episode adds to the log and resets at once.
static inline void squared_step(Squared *squared, const SquaredConfig *config, Rows rows) {
    const int size = config->size;
    const int64_t action = *(const int64_t *)rows.actions;
    int8_t *observations = rows.observations;

    observations[squared->row * size + squared->column] = 0;
    const int row = squared->row + (action == 2) - (action == 1);
    const int column = squared->column + (action == 4) - (action == 3);
    if (row >= 0 && row < size) squared->row = row;
    if (column >= 0 && column < size) squared->column = column;
    const int cell = squared->row * size + squared->column;
    observations[cell] = 1;
    squared->steps++;

    const int reached = cell == squared->target;
    const int cut = !reached && squared->steps >= config->max_steps;
    *rows.rewards = (float)reached;
    *rows.terminals = (uint8_t)reached;
    *rows.truncations = (uint8_t)cut;
    if (!reached && !cut) return;

    squared->log.score += (float)reached;
    squared->log.perf += (float)reached;
    squared->log.episode_return += (float)reached;
    squared->log.episode_length += (float)squared->steps;
    squared->log.n += 1;
    if (cut) memcpy(rows.final_observations, observations, (size_t)(size * size));
    squared_reset(squared, config, rows);
}

// Draws the copy into a frame of any size, in units of the game: here a cell is 1 x 1.
static inline void squared_render(const Squared *squared, const SquaredConfig *config, Frame frame) {
    const int size = config->size;
    frame = draw_view(frame, (float)size, (float)size, COLOR_LINE);
    for (int cell = 0; cell < size * size; cell++) {
        const int is_agent = cell == squared->row * size + squared->column;
        const Color color = is_agent ? COLOR_TEAL : cell == squared->target ? COLOR_GOLD : COLOR_PANEL;
        draw_rectangle(frame, (float)(cell % size) + 0.04f, (float)(cell / size) + 0.04f, 0.92f, 0.92f,
                       color);
    }
}

#endif
