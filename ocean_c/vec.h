// A vector of copies of one environment: written once, included last by the binding that build.py generates,
// after that environment's header and these names for it:
//
//   State, Config, Log                   its three structs; State has a member `Log log`
//   env_agents, env_observation_bytes    rows a copy owns, bytes of one observation row
//   env_init, env_reset, env_step, env_render
//
// Every function works on the copies [start, end), so threads share a vector by taking separate ranges.
#ifndef VEC_H
#define VEC_H
#include <stdlib.h>
#include <string.h>

typedef struct Vec {
    State *states;
    Config config;
    Rows rows;                // the first row's pointers; the memory belongs to the caller
    size_t observation_bytes; // bytes of one observation row
    size_t action_bytes;      // bytes of one action row
    int actions;              // numbers in one action row
    int continuous;           // whether they are floats, else int64_t
    const void *bounds;       // of their type: [2][actions], the lowest and the highest value of each
    int agents;               // rows a copy owns
    int num_envs;
} Vec;

static Rows vec_rows(const Vec *vec, int copy) {
    const size_t row = (size_t)copy * (size_t)vec->agents;
    Rows rows = vec->rows;
    rows.observations = (char *)rows.observations + row * vec->observation_bytes;
    rows.final_observations = (char *)rows.final_observations + row * vec->observation_bytes;
    rows.actions = (const char *)rows.actions + row * vec->action_bytes;
    rows.rewards += row;
    rows.terminals += row;
    rows.truncations += row;
    return rows;
}

// How much memory the caller gives: rows a copy owns and bytes of an observation row under this config.
static int vec_agents(const Config *config) { return env_agents(config); }
static int vec_observation_bytes(const Config *config) { return env_observation_bytes(config); }

// NULL when memory is out. `bounds` and the rows stay the caller's and must outlive the vector.
static Vec *vec_create(int num_envs, const Config *config, Rows rows, size_t observation_bytes, int actions,
                       int continuous, const void *bounds) {
    Vec *vec = malloc(sizeof(Vec));
    State *states = calloc((size_t)num_envs, sizeof(State));
    if (!vec || !states) {
        free(vec);
        free(states);
        return NULL;
    }
    *vec = (Vec){.states = states,
                 .config = *config,
                 .rows = rows,
                 .observation_bytes = observation_bytes,
                 .action_bytes = (size_t)actions * (continuous ? sizeof(float) : sizeof(int64_t)),
                 .actions = actions,
                 .continuous = continuous,
                 .bounds = bounds,
                 .agents = env_agents(config),
                 .num_envs = num_envs};
    return vec;
}

static void vec_close(Vec *vec) {
    free(vec->states);
    free(vec);
}

// Gives every copy its own random stream, from the seed and its index in the whole vector.
static void vec_seed(Vec *vec, uint64_t seed) {
    memset(vec->states, 0, (size_t)vec->num_envs * sizeof(State));
    for (int i = 0; i < vec->num_envs; i++)
        env_init(&vec->states[i], &vec->config, rng_seed(seed, (uint64_t)i));
}

static void vec_reset(Vec *vec, int start, int end) {
    for (int i = start; i < end; i++) {
        const Rows rows = vec_rows(vec, i);
        memset(rows.rewards, 0, (size_t)vec->agents * sizeof(float));
        memset(rows.terminals, 0, (size_t)vec->agents);
        memset(rows.truncations, 0, (size_t)vec->agents);
        env_reset(&vec->states[i], &vec->config, rows);
    }
}

// Whether an action is out of bounds, as a float that is not a number is; asked before a step. The loops have
// no branch, so that the compiler checks many rows at once.
static int vec_bad_actions(const Vec *vec, int start, int end) {
    const size_t first = (size_t)start * (size_t)vec->agents, last = (size_t)end * (size_t)vec->agents;
    const size_t n = (size_t)vec->actions;
    int bad = 0;
    for (size_t j = 0; j < n; j++) {
        if (vec->continuous) {
            const float *actions = vec->rows.actions, *bounds = vec->bounds;
            const float low = bounds[j], high = bounds[n + j];
            for (size_t row = first; row < last; row++)
                bad |= !((actions[row * n + j] >= low) & (actions[row * n + j] <= high));
        } else {
            const int64_t *actions = vec->rows.actions, *bounds = vec->bounds;
            const int64_t low = bounds[j], high = bounds[n + j];
            for (size_t row = first; row < last; row++)
                bad |= (actions[row * n + j] < low) | (actions[row * n + j] > high);
        }
    }
    return bad;
}

// Returns how many of the rows were truncated.
static int vec_step(void *vec, int start, int end) {
    // A copy, which no byte that an environment writes can alias, so it stays in registers.
    const Vec local = *(const Vec *)vec;
    for (int i = start; i < end; i++) env_step(&local.states[i], &local.config, vec_rows(&local, i));
    int truncated = 0;
    for (int row = start * local.agents; row < end * local.agents; row++)
        truncated += local.rows.truncations[row];
    return truncated;
}

// Adds the logs of the copies to `sums` and empties them.
static void vec_log(Vec *vec, int start, int end, double *sums) {
    const size_t fields = sizeof(Log) / sizeof(float);
    for (int i = start; i < end; i++) {
        float *log = (float *)&vec->states[i].log;
        if (vec->states[i].log.n == 0) continue;
        for (size_t j = 0; j < fields; j++) sums[j] += (double)log[j];
        memset(log, 0, sizeof(Log));
    }
}

static void vec_render(const Vec *vec, int copy, uint8_t *pixels, int width, int height) {
    const Frame frame = {.pixels = pixels, .width = width, .height = height, .scale = 1};
    memset(pixels, 0, (size_t)width * (size_t)height * 3);
    env_render(&vec->states[copy], &vec->config, frame);
}

static size_t vec_state_size(void) { return sizeof(State); }
static void vec_save(const Vec *vec, char *bytes) {
    memcpy(bytes, vec->states, (size_t)vec->num_envs * sizeof(State));
}
static void vec_load(Vec *vec, const char *bytes) {
    memcpy(vec->states, bytes, (size_t)vec->num_envs * sizeof(State));
}

#endif
