// Pong: the first to 21 points, against an opponent that follows the ball as fast as the agent's paddle can
// move, and returns it as it came. The agent's paddle gives the ball vertical speed when it moves while it
// hits, and a ball can become faster than a paddle: that is how the opponent is beaten. The court is 160 x
// 120 units, y points down, the agent plays on the right.
//
// Observation  8 floats in [-1, 1]: paddles of agent and opponent, ball x, y, its velocity x, y, both scores.
// Actions      0 stay, 1 up, 2 down, held for `frameskip` frames; with `continuous` -1.0 is up and 1.0 down
//              at full speed.
// Reward       1 for a point won, -1 for one lost, hit_reward for returning the ball.
// Episode      ends when one side has max_score points; is cut after max_steps.
// Score        points won minus points lost; perf is that from 0 (lost to nil) to 1 (won to nil).
#ifndef PONG_H
#define PONG_H
#include "env.h"

#define PONG_WIDTH 160.0f
#define PONG_HEIGHT 120.0f
#define PONG_PADDLE_WIDTH 4.0f
#define PONG_BALL 4.0f // side of the square ball
#define PONG_AGENT_X (PONG_WIDTH - 8)
#define PONG_OPPONENT_X 8.0f // the sides of the paddles that face the ball

typedef struct PongConfig {
    int frameskip;
    int max_score;
    int max_steps;
    float paddle_height; // units
    float paddle_speed;  // units a frame, of both sides
    float ball_speed;    // horizontal, units a frame
    float ball_spin;     // vertical speed that the agent's moving paddle adds
    float ball_max_spin; // most vertical speed the ball can have
    float hit_reward;
    int continuous; // whether actions are floats
} PongConfig;

typedef struct PongLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
    float hits; // balls returned by the agent
} PongLog;

typedef struct Pong {
    Rng rng;
    float agent_y, opponent_y; // upper edges of the paddles
    float ball_x, ball_y;      // centre of the ball
    float ball_velocity_x, ball_velocity_y;
    int agent_score, opponent_score;
    int steps, hits;
    float episode_return;
    PongLog log;
} Pong;

static inline int pong_agents(const PongConfig *config) {
    (void)config;
    return 1;
}
static inline int pong_observation_bytes(const PongConfig *config) {
    (void)config;
    return 8 * (int)sizeof(float);
}

static inline void pong_init(Pong *pong, const PongConfig *config, Rng rng) {
    (void)config;
    pong->rng = rng;
}

// A new point: paddles in the middle, and a ball from the middle to a random side at a random slope.
static inline void pong_serve(Pong *pong, const PongConfig *config) {
    const uint64_t random = rng_next(&pong->rng);
    pong->agent_y = pong->opponent_y = (PONG_HEIGHT - config->paddle_height) / 2;
    pong->ball_x = PONG_WIDTH / 2;
    pong->ball_y = PONG_HEIGHT * (0.375f + 0.25f * (float)(random >> 40) * 0x1p-24f);
    pong->ball_velocity_x = random & 1 ? config->ball_speed : -config->ball_speed;
    const float fastest =
        config->ball_spin < config->ball_max_spin ? config->ball_spin : config->ball_max_spin;
    pong->ball_velocity_y = ((float)(random >> 8 & 0xFFFF) * 0x1p-15f - 1) * fastest;
}

static inline void pong_observe(const Pong *pong, const PongConfig *config, float *observations) {
    // Divided, not multiplied by the inverse, which rounds to beyond 1.
    const float half_travel = (PONG_HEIGHT - config->paddle_height) / 2,
                points = 1 / (float)config->max_score;
    observations[0] = pong->agent_y / half_travel - 1;
    observations[1] = pong->opponent_y / half_travel - 1;
    observations[2] = pong->ball_x * (2 / PONG_WIDTH) - 1;
    observations[3] = pong->ball_y * (2 / PONG_HEIGHT) - 1;
    observations[4] = pong->ball_velocity_x > 0 ? 1 : -1;
    observations[5] = pong->ball_velocity_y / config->ball_max_spin;
    observations[6] = (float)pong->agent_score * points;
    observations[7] = (float)pong->opponent_score * points;
}

static inline void pong_reset(Pong *pong, const PongConfig *config, Rows rows) {
    pong->agent_score = pong->opponent_score = 0;
    pong->steps = pong->hits = 0;
    pong->episode_return = 0;
    pong_serve(pong, config);
    pong_observe(pong, config, rows.observations);
}

static inline float pong_clamp(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// One frame: both paddles, then the ball. Returns the reward.
static inline float pong_frame(Pong *pong, const PongConfig *config, float agent_motion) {
    const float lowest = PONG_HEIGHT - config->paddle_height;
    const float miss = pong->ball_y - pong->opponent_y - config->paddle_height / 2;
    const float opponent_motion = pong_clamp(miss, -config->paddle_speed, config->paddle_speed);
    pong->agent_y = pong_clamp(pong->agent_y + agent_motion, 0, lowest);
    pong->opponent_y = pong_clamp(pong->opponent_y + opponent_motion, 0, lowest);

    pong->ball_x += pong->ball_velocity_x;
    pong->ball_y += pong->ball_velocity_y;
    if (pong->ball_y < PONG_BALL / 2 || pong->ball_y > PONG_HEIGHT - PONG_BALL / 2) {
        const float wall = pong->ball_y < PONG_BALL / 2 ? PONG_BALL / 2 : PONG_HEIGHT - PONG_BALL / 2;
        pong->ball_y = 2 * wall - pong->ball_y;
        pong->ball_velocity_y = -pong->ball_velocity_y;
    }
    const float left = PONG_OPPONENT_X + PONG_BALL / 2, right = PONG_AGENT_X - PONG_BALL / 2;
    if (pong->ball_x > left && pong->ball_x < right) return 0;

    // The ball is at a side: returned if it touches the paddle, else a point.
    const int agents_side = pong->ball_velocity_x > 0;
    const float paddle_y = agents_side ? pong->agent_y : pong->opponent_y;
    if (pong->ball_y + PONG_BALL / 2 >= paddle_y &&
        pong->ball_y - PONG_BALL / 2 <= paddle_y + config->paddle_height) {
        pong->ball_x = 2 * (agents_side ? right : left) - pong->ball_x;
        pong->ball_velocity_x = -pong->ball_velocity_x;
        if (!agents_side) return 0; // the opponent plays flat
        const float spin = config->ball_spin * agent_motion / config->paddle_speed;
        const float fastest = config->ball_max_spin;
        pong->ball_velocity_y = pong_clamp(pong->ball_velocity_y + spin, -fastest, fastest);
        pong->hits++;
        return config->hit_reward;
    }
    pong->agent_score += !agents_side;
    pong->opponent_score += agents_side;
    pong_serve(pong, config);
    return agents_side ? -1 : 1;
}

// What the action asks for: -1 up, 1 down.
static inline float pong_action(const PongConfig *config, Rows rows) {
    if (config->continuous) return *(const float *)rows.actions;
    const int64_t action = *(const int64_t *)rows.actions;
    return (float)((action == 2) - (action == 1));
}

static inline void pong_step(Pong *pong, const PongConfig *config, Rows rows) {
    const float motion = pong_action(config, rows) * config->paddle_speed;
    const int points = pong->agent_score + pong->opponent_score;
    float reward = 0;
    for (int frame = 0; frame < config->frameskip; frame++) {
        reward += pong_frame(pong, config, motion);
        if (pong->agent_score + pong->opponent_score > points)
            break; // the next point begins with the next action
    }
    const int over = pong->agent_score == config->max_score || pong->opponent_score == config->max_score;
    pong->steps++;
    pong->episode_return += reward;
    const int cut = !over && pong->steps >= config->max_steps;
    *rows.rewards = reward;
    *rows.terminals = (uint8_t)over;
    *rows.truncations = (uint8_t)cut;
    if (!over && !cut) {
        pong_observe(pong, config, rows.observations);
        return;
    }
    const float difference = (float)(pong->agent_score - pong->opponent_score);
    pong->log.score += difference;
    pong->log.perf += 0.5f + 0.5f * difference / (float)config->max_score;
    pong->log.episode_return += pong->episode_return;
    pong->log.episode_length += (float)pong->steps;
    pong->log.hits += (float)pong->hits;
    pong->log.n += 1;
    if (cut) pong_observe(pong, config, rows.final_observations);
    pong_reset(pong, config, rows);
}

static inline void pong_render(const Pong *pong, const PongConfig *config, Frame frame) {
    frame = draw_view(frame, PONG_WIDTH, PONG_HEIGHT, COLOR_NIGHT);
    for (int i = 0; i < 10; i++)
        draw_rectangle(frame, PONG_WIDTH / 2 - 0.75f, (float)i * 12 + 3, 1.5f, 6, COLOR_LINE);
    draw_number(frame, PONG_WIDTH / 2 - 10, 8, 3, pong->opponent_score, COLOR_CORAL);
    draw_number(frame, PONG_WIDTH / 2 + (pong->agent_score > 9 ? 37 : 25), 8, 3, pong->agent_score,
                COLOR_TEAL);
    const float width = PONG_PADDLE_WIDTH, height = config->paddle_height;
    draw_rectangle(frame, PONG_OPPONENT_X - width, pong->opponent_y, width, height, COLOR_CORAL);
    draw_rectangle(frame, PONG_AGENT_X, pong->agent_y, width, height, COLOR_TEAL);
    const float half = PONG_BALL / 2;
    draw_rectangle(frame, pong->ball_x - half, pong->ball_y - half, PONG_BALL, PONG_BALL, COLOR_WHITE);
}

#endif
