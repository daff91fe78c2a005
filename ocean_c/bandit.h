// Bandit: one pull an episode of the arm that belongs to the context shown. Checks that the gradient points
// the right way: nothing to explore, nothing to remember, chance is 1 / arms.
//
// Observation  [arms] floats: 1 at the context, else 0; the context is drawn anew for every pull.
// Actions      one of the arms; context i pays for arm (i * 3 + 1) mod arms.
// Reward       1 for the right arm.
// Episode      ends with every pull.
// Score        1 for the right arm, else 0.
#ifndef BANDIT_H
#define BANDIT_H
#include "env.h"

typedef struct BanditConfig {
    int arms;
} BanditConfig;

typedef struct BanditLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
} BanditLog;

typedef struct Bandit {
    Rng rng;
    int context;
    int pulled;  // arm of the last pull, for rendering
    int correct; // whether it paid
    BanditLog log;
} Bandit;

static inline int bandit_agents(const BanditConfig *config) {
    (void)config;
    return 1;
}
static inline int bandit_observation_bytes(const BanditConfig *config) {
    return config->arms * (int)sizeof(float);
}

static inline void bandit_init(Bandit *bandit, const BanditConfig *config, Rng rng) {
    bandit->rng = rng;
    bandit->pulled = config->arms; // none yet
}

static inline void bandit_reset(Bandit *bandit, const BanditConfig *config, Rows rows) {
    float *observations = rows.observations;
    bandit->context = rng_int(&bandit->rng, config->arms);
    for (int i = 0; i < config->arms; i++) observations[i] = (float)(i == bandit->context);
}

static inline void bandit_step(Bandit *bandit, const BanditConfig *config, Rows rows) {
    bandit->pulled = (int)*(const int64_t *)rows.actions;
    bandit->correct = bandit->pulled == (bandit->context * 3 + 1) % config->arms;
    *rows.rewards = (float)bandit->correct;
    *rows.terminals = 1;
    *rows.truncations = 0;
    bandit->log.score += (float)bandit->correct;
    bandit->log.perf += (float)bandit->correct;
    bandit->log.episode_return += (float)bandit->correct;
    bandit->log.episode_length += 1;
    bandit->log.n += 1;
    bandit_reset(bandit, config, rows);
}

// The arms in a row, the context above its place, the last arm pulled lit by whether it paid.
static inline void bandit_render(const Bandit *bandit, const BanditConfig *config, Frame frame) {
    frame = draw_view(frame, (float)config->arms, 4, COLOR_NIGHT);
    for (int i = 0; i < config->arms; i++) {
        const Color color = i != bandit->pulled ? COLOR_PANEL : bandit->correct ? COLOR_TEAL : COLOR_CORAL;
        draw_rectangle(frame, (float)i + 0.1f, 1.5f, 0.8f, 2, color);
    }
    draw_disc(frame, (float)bandit->context + 0.5f, 0.75f, 0.35f, COLOR_GOLD);
}

#endif
