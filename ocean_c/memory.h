// Memory: see a cue, walk a corridor, and at its end turn to the side that the cue named. Nothing at the end
// tells the side: without memory the score stays at 0.5.
//
// Observation  4 floats: cue left, cue right (on the first step only), corridor, end.
// Actions      0 turn left, 1 turn right; in the corridor both walk on.
// Reward       1 for the right turn, -1 for the wrong one.
// Episode      ends with the turn, after length + 1 steps.
// Score        1 for the right turn, else 0.
#ifndef MEMORY_H
#define MEMORY_H
#include "env.h"

typedef struct MemoryConfig {
    int length; // steps from the cue to the end
} MemoryConfig;

typedef struct MemoryLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
} MemoryLog;

typedef struct Memory {
    Rng rng;
    int cue; // 0 left, 1 right
    int position;
    int last_correct; // how the last episode went, for rendering: -1 none yet
    MemoryLog log;
} Memory;

static inline int memory_agents(const MemoryConfig *config) {
    (void)config;
    return 1;
}
static inline int memory_observation_bytes(const MemoryConfig *config) {
    (void)config;
    return 4 * (int)sizeof(float);
}

static inline void memory_init(Memory *memory, const MemoryConfig *config, Rng rng) {
    (void)config;
    memory->rng = rng;
    memory->last_correct = -1;
}

static inline void memory_observe(const Memory *memory, const MemoryConfig *config, float *observations) {
    observations[0] = (float)(memory->position == 0 && memory->cue == 0);
    observations[1] = (float)(memory->position == 0 && memory->cue == 1);
    observations[2] = (float)(memory->position > 0 && memory->position < config->length);
    observations[3] = (float)(memory->position == config->length);
}

static inline void memory_reset(Memory *memory, const MemoryConfig *config, Rows rows) {
    memory->cue = rng_int(&memory->rng, 2);
    memory->position = 0;
    memory_observe(memory, config, rows.observations);
}

static inline void memory_step(Memory *memory, const MemoryConfig *config, Rows rows) {
    const int turn = (int)*(const int64_t *)rows.actions;
    *rows.rewards = 0;
    *rows.terminals = 0;
    *rows.truncations = 0;
    if (memory->position < config->length) {
        memory->position++;
        memory_observe(memory, config, rows.observations);
        return;
    }
    const int correct = turn == memory->cue;
    const float reward = correct ? 1 : -1;
    *rows.rewards = reward;
    *rows.terminals = 1;
    memory->last_correct = correct;
    memory->log.score += (float)correct;
    memory->log.perf += (float)correct;
    memory->log.episode_return += reward;
    memory->log.episode_length += (float)(config->length + 1);
    memory->log.n += 1;
    memory_reset(memory, config, rows);
}

// The corridor from left to right, the cue's side lit at its start, and how the last turn went at its end.
static inline void memory_render(const Memory *memory, const MemoryConfig *config, Frame frame) {
    const float cells = (float)(config->length + 1), height = cells / 2 > 3 ? cells / 2 : 3;
    const float y = height / 2 - 0.5f;
    frame = draw_view(frame, cells, height, COLOR_NIGHT);
    draw_rectangle(frame, 0, y, cells, 1, COLOR_PANEL);
    draw_rectangle(frame, 0, memory->cue == 0 ? y - 1 : y + 1, 1, 1, COLOR_GOLD);
    const Color turned = memory->last_correct < 0 ? COLOR_PANEL
                         : memory->last_correct   ? COLOR_TEAL
                                                  : COLOR_CORAL;
    draw_rectangle(frame, cells - 1, y - 1, 1, 1, turned);
    draw_rectangle(frame, cells - 1, y + 1, 1, 1, turned);
    draw_disc(frame, (float)memory->position + 0.5f, height / 2, 0.4f, COLOR_WHITE);
}

#endif
