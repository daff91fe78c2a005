// Breakout: a paddle keeps a ball in play that breaks two walls of bricks, one after the other. Bricks pay 7,
// 4 and 1 points by pairs of rows from the top: 432 a wall. Where the ball meets the paddle decides at what
// angle it leaves, never flatter than BREAKOUT_FLATTEST, so every ball comes back and can be steered. It
// becomes faster with the 4th and the 12th return and when it first breaks a brick of the middle and of the
// upper rows; the paddle shrinks to half when the ball first touches the back wall. A new ball undoes both.
// The second wall stands as soon as the ball meets the paddle, or is lost, after the first is gone.
//
// The ball is a square that flies through continuous time: a step finds one bounce after the other, however
// far the ball flies, and the paddle moves evenly meanwhile. The court is 144 x 160 units, y points down.
//
// Observation  118 floats in [-1, 1]: paddle x, 1 if the paddle is whole, ball x, y, its direction x, y (of
//              length 1), its speed from 0 (slowest) to 1, lives / 5, score / 864, 1 if this is the second
//              wall; then 1 for each brick that stands, row by row from the top.
// Actions      0 stay, 1 left, 2 right, held for `frameskip` frames; with `continuous` -1.0 is left and 1.0
//              right at full speed.
// Reward       brick_reward for each brick, lost_reward for each ball lost. All bricks must go for the full
//              score, so one is worth as much as another; rewards by points begin with the few of the low rows,
//              and learn at half the speed.
// Episode      ends when 5 balls are lost or both walls are gone; is cut after max_steps. A step ends early
//              when a ball is lost: the next flies at once, downwards from below the bricks.
// Score        points, at most 864; perf is their share.
#ifndef BREAKOUT_H
#define BREAKOUT_H
#include "env.h"

#define BREAKOUT_WIDTH 144.0f
#define BREAKOUT_HALF 1.5f // of the ball's side
#define BREAKOUT_LEFT BREAKOUT_HALF
#define BREAKOUT_RIGHT (BREAKOUT_WIDTH - BREAKOUT_HALF) // where the centre of the ball bounces
#define BREAKOUT_BACK BREAKOUT_HALF
#define BREAKOUT_PADDLE_Y 150.0f // its upper side
#define BREAKOUT_RETURN (BREAKOUT_PADDLE_Y - BREAKOUT_HALF)
#define BREAKOUT_FLOOR 160.0f // where the ball is lost
#define BREAKOUT_START 84.0f  // where it begins

#define BREAKOUT_ROWS 6
#define BREAKOUT_COLUMNS 18
#define BREAKOUT_BRICKS (BREAKOUT_ROWS * BREAKOUT_COLUMNS)
#define BREAKOUT_FULL_ROW ((1u << BREAKOUT_COLUMNS) - 1)
#define BREAKOUT_BRICK_WIDTH (BREAKOUT_WIDTH / BREAKOUT_COLUMNS)
#define BREAKOUT_BRICK_HEIGHT 6.0f
#define BREAKOUT_BRICKS_TOP 24.0f
#define BREAKOUT_BRICKS_BOTTOM (BREAKOUT_BRICKS_TOP + BREAKOUT_ROWS * BREAKOUT_BRICK_HEIGHT)

// Where the centre of the ball is when it touches the wall of bricks from above or below.
#define BREAKOUT_ABOVE_BRICKS (BREAKOUT_BRICKS_TOP - BREAKOUT_HALF)
#define BREAKOUT_BELOW_BRICKS (BREAKOUT_BRICKS_BOTTOM + BREAKOUT_HALF)

#define BREAKOUT_LIVES 5
#define BREAKOUT_MOST 864       // points
#define BREAKOUT_FLATTEST 0.7f  // largest sideways part of the direction
#define BREAKOUT_SPEED_UP 0.25f // of ball_speed, four times at most
#define BREAKOUT_BOUNCES 64     // in a step; what a ball would fly after them is left out
#define BREAKOUT_NUMBERS 10     // of an observation, before the bricks

typedef struct BreakoutConfig {
    int frameskip;
    int max_steps;
    float paddle_width; // units
    float paddle_speed; // units a frame
    float ball_speed;   // of a new ball, units a frame
    float brick_reward;
    float lost_reward;
    int continuous; // whether actions are floats
} BreakoutConfig;

typedef struct BreakoutLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
    float bricks;
    float hits; // balls returned
} BreakoutLog;

typedef struct Breakout {
    Rng rng;
    float paddle_x; // centre
    float paddle_width;
    float ball_x, ball_y;           // centre
    float direction_x, direction_y; // of length 1
    float speed;
    int faster;                     // how often the ball became faster
    int returns;                    // of this ball
    int reached;                    // highest pair of rows that it broke a brick of: 0 low to 2 high
    int passed;                     // whether it is below the paddle's upper side
    uint32_t bricks[BREAKOUT_ROWS]; // a bit for each that stands, the leftmost lowest
    int standing;                   // how many
    int wall;                       // 0 or 1
    int lives;
    int score;
    int steps, broken, hits; // of the episode
    float episode_return;
    BreakoutLog log;
} Breakout;

static inline int breakout_agents(const BreakoutConfig *config) {
    (void)config;
    return 1;
}
static inline int breakout_observation_bytes(const BreakoutConfig *config) {
    (void)config;
    return (BREAKOUT_NUMBERS + BREAKOUT_BRICKS) * (int)sizeof(float);
}

static inline void breakout_init(Breakout *breakout, const BreakoutConfig *config, Rng rng) {
    (void)config;
    breakout->rng = rng;
}

static inline float breakout_clamp(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

static inline void breakout_build_wall(Breakout *breakout, float *observations) {
    for (int row = 0; row < BREAKOUT_ROWS; row++) breakout->bricks[row] = BREAKOUT_FULL_ROW;
    for (int brick = 0; brick < BREAKOUT_BRICKS; brick++) observations[BREAKOUT_NUMBERS + brick] = 1;
    breakout->standing = BREAKOUT_BRICKS;
}

static inline void breakout_next_wall(Breakout *breakout, float *observations) {
    if (breakout->standing) return;
    breakout->wall = 1;
    breakout_build_wall(breakout, observations);
}

static inline void breakout_set_speed(Breakout *breakout, const BreakoutConfig *config) {
    breakout->faster = breakout->reached + (breakout->returns >= 4) + (breakout->returns >= 12);
    breakout->speed = config->ball_speed * (1 + BREAKOUT_SPEED_UP * (float)breakout->faster);
}

// A new ball, and the paddle in the middle.
static inline void breakout_launch(Breakout *breakout, const BreakoutConfig *config) {
    breakout->paddle_x = BREAKOUT_WIDTH / 2;
    breakout->paddle_width = config->paddle_width;
    breakout->ball_x = BREAKOUT_WIDTH * (0.25f + 0.5f * rng_float(&breakout->rng));
    breakout->ball_y = BREAKOUT_START;
    breakout->direction_x = BREAKOUT_FLATTEST * (2 * rng_float(&breakout->rng) - 1);
    breakout->direction_y = sqrtf(1 - breakout->direction_x * breakout->direction_x);
    breakout->returns = breakout->reached = breakout->passed = 0;
    breakout_set_speed(breakout, config);
}

static inline void breakout_observe(const Breakout *breakout, const BreakoutConfig *config,
                                    float *observations) {
    observations[0] = breakout->paddle_x * (2 / BREAKOUT_WIDTH) - 1;
    observations[1] = (float)(breakout->paddle_width == config->paddle_width);
    observations[2] = breakout->ball_x * (2 / BREAKOUT_WIDTH) - 1;
    observations[3] = breakout->ball_y * (2 / BREAKOUT_FLOOR) - 1;
    observations[4] = breakout->direction_x;
    observations[5] = breakout->direction_y;
    observations[6] = (float)breakout->faster * 0.25f;
    observations[7] = (float)breakout->lives * (1.0f / BREAKOUT_LIVES);
    observations[8] = (float)breakout->score * (1.0f / BREAKOUT_MOST);
    observations[9] = (float)breakout->wall;
}

static inline void breakout_reset(Breakout *breakout, const BreakoutConfig *config, Rows rows) {
    breakout->lives = BREAKOUT_LIVES;
    breakout->wall = breakout->score = breakout->steps = breakout->broken = breakout->hits = 0;
    breakout->episode_return = 0;
    breakout_build_wall(breakout, rows.observations);
    breakout_launch(breakout, config);
    breakout_observe(breakout, config, rows.observations);
}

// A brick that the ball is about to touch.
typedef struct BreakoutTouch {
    float distance; // to fly until then
    int row, column;
    int from_side; // else from above or below
} BreakoutTouch;

// The first brick on the next `distance` units of the ball's way; row is -1 if there is none. The ball's
// centre is taken as a point and the bricks grow by half a ball instead. For each row in the order of flight:
// while the point is within its height, which columns does it pass, and which of them is first?
static inline BreakoutTouch breakout_find_brick(const Breakout *breakout, float distance) {
    const float x = breakout->ball_x, y = breakout->ball_y;
    const float dx = breakout->direction_x, dy = breakout->direction_y;
    const float inverse_y = 1 / dy;
    BreakoutTouch first = {distance, -1, 0, 0};
    for (int i = 0; i < BREAKOUT_ROWS; i++) {
        const int row = dy < 0 ? BREAKOUT_ROWS - 1 - i : i;
        const float top = BREAKOUT_BRICKS_TOP + (float)row * BREAKOUT_BRICK_HEIGHT - BREAKOUT_HALF;
        const float bottom = top + BREAKOUT_BRICK_HEIGHT + 2 * BREAKOUT_HALF;
        const float enter = ((dy < 0 ? bottom : top) - y) * inverse_y;
        const float leave = ((dy < 0 ? top : bottom) - y) * inverse_y;
        if (enter > first.distance) break;
        if (leave <= 0 || !breakout->bricks[row]) continue;

        const float x_enter = x + dx * (enter > 0 ? enter : 0);
        const float x_leave = x + dx * (leave < first.distance ? leave : first.distance);
        const float low = x_enter < x_leave ? x_enter : x_leave, high = x_enter < x_leave ? x_leave : x_enter;
        const int from = (int)((low - BREAKOUT_HALF) * (1 / BREAKOUT_BRICK_WIDTH));
        const int to = (int)ceilf((high + BREAKOUT_HALF) * (1 / BREAKOUT_BRICK_WIDTH)); // not included
        const uint32_t passed = breakout->bricks[row] & ((1u << to) - (1u << from));
        if (!passed) continue;

        const int nearest = dx > 0 ? __builtin_ctz(passed) : 31 - __builtin_clz(passed);
        const float side = dx > 0 ? (float)nearest * BREAKOUT_BRICK_WIDTH - BREAKOUT_HALF
                                  : (float)(nearest + 1) * BREAKOUT_BRICK_WIDTH + BREAKOUT_HALF;
        const float before = dx > 0 ? side - x_enter : x_enter - side; // the side, when it enters the row
        BreakoutTouch touch = {enter > 0 ? enter : 0, row, nearest, 0};
        if (before >= 0) {
            touch.from_side = 1;
            touch.distance = (side - x) / dx;
        } else {
            // It enters over a brick; of two the one that its middle is over. Rounding may have let it in by
            // a hair before: then it came from where it is less deep.
            const int middle = (int)(x_enter * (1 / BREAKOUT_BRICK_WIDTH));
            touch.from_side = -before < -enter * fabsf(dx);
            if (passed >> middle & 1 && !touch.from_side) touch.column = middle;
        }
        const int middle =
            (int)((y + dy * touch.distance - BREAKOUT_BRICKS_TOP) * (1 / BREAKOUT_BRICK_HEIGHT));
        if (first.row < 0 || touch.distance < first.distance ||
            (touch.distance == first.distance && row == middle))
            first = touch;
    }
    return first;
}

static inline void breakout_break(Breakout *breakout, const BreakoutConfig *config, BreakoutTouch touch,
                                  float *observations) {
    static const int points[3] = {1, 4, 7};
    if (touch.from_side) {
        const int right = breakout->direction_x < 0; // the side of the brick
        breakout->ball_x =
            (float)(touch.column + right) * BREAKOUT_BRICK_WIDTH + (right ? BREAKOUT_HALF : -BREAKOUT_HALF);
        breakout->direction_x = -breakout->direction_x;
    } else {
        const int below = breakout->direction_y < 0;
        breakout->ball_y = BREAKOUT_BRICKS_TOP + (float)(touch.row + below) * BREAKOUT_BRICK_HEIGHT +
                           (below ? BREAKOUT_HALF : -BREAKOUT_HALF);
        breakout->direction_y = -breakout->direction_y;
    }
    const int pair = 2 - touch.row / 2;
    breakout->bricks[touch.row] &= ~(1u << touch.column);
    breakout->standing--;
    breakout->broken++;
    breakout->score += points[pair];
    observations[BREAKOUT_NUMBERS + touch.row * BREAKOUT_COLUMNS + touch.column] = 0;
    if (pair > breakout->reached) {
        breakout->reached = pair;
        breakout_set_speed(breakout, config);
    }
}

// The ball is at the height of the paddle, and either meets it or falls on.
static inline void breakout_meet_paddle(Breakout *breakout, const BreakoutConfig *config,
                                        float *observations) {
    const float reach = breakout->paddle_width / 2 + BREAKOUT_HALF;
    const float offset = breakout->ball_x - breakout->paddle_x;
    breakout->passed = fabsf(offset) > reach;
    if (breakout->passed) return;
    breakout->direction_x = BREAKOUT_FLATTEST * (offset / reach);
    breakout->direction_y = -sqrtf(1 - breakout->direction_x * breakout->direction_x);
    breakout->returns++;
    breakout->hits++;
    breakout_set_speed(breakout, config);
    breakout_next_wall(breakout, observations);
}

static inline void breakout_move_paddle(Breakout *breakout, float x) {
    const float half = breakout->paddle_width / 2;
    breakout->paddle_x = breakout_clamp(x, half, BREAKOUT_WIDTH - half);
}

// A step in which the ball may touch something. Whether it does is asked of the place where it would end, so
// that rounding cannot let it slip between two steps; it is then put exactly where it touches.
static void breakout_bounce(Breakout *breakout, const BreakoutConfig *config, float motion,
                            float *observations) {
    const float frames = (float)config->frameskip, paddle_x = breakout->paddle_x;
    float left = frames;
    for (int bounce = 0; bounce < BREAKOUT_BOUNCES && left > 0; bounce++) {
        const float dx = breakout->direction_x, dy = breakout->direction_y;
        const float x = breakout->ball_x, y = breakout->ball_y, way = breakout->speed * left;
        const float end_x = x + dx * way, end_y = y + dy * way;
        enum { NOTHING, SIDE, BACK, PADDLE, FLOOR, BRICK } touched = NOTHING;
        float distance = way;
        if (end_x < BREAKOUT_LEFT || end_x > BREAKOUT_RIGHT) {
            touched = SIDE;
            distance = ((dx < 0 ? BREAKOUT_LEFT : BREAKOUT_RIGHT) - x) / dx;
        }
        const float ahead = dy < 0 ? BREAKOUT_BACK : breakout->passed ? BREAKOUT_FLOOR : BREAKOUT_RETURN;
        if (dy < 0 ? end_y < ahead : end_y >= ahead) {
            const float until = (ahead - y) / dy;
            if (until < distance) {
                touched = dy < 0 ? BACK : breakout->passed ? FLOOR : PADDLE;
                distance = until > 0 ? until : 0;
            }
        }
        BreakoutTouch brick = {.row = -1};
        if ((y > BREAKOUT_ABOVE_BRICKS || end_y > BREAKOUT_ABOVE_BRICKS) &&
            (y < BREAKOUT_BELOW_BRICKS || end_y < BREAKOUT_BELOW_BRICKS))
            brick = breakout_find_brick(breakout, distance);
        if (brick.row >= 0) {
            touched = BRICK;
            distance = brick.distance;
        }
        left -= distance / breakout->speed;
        breakout->ball_x = breakout_clamp(x + dx * distance, BREAKOUT_LEFT, BREAKOUT_RIGHT);
        breakout->ball_y = y + dy * distance;
        switch (touched) {
        case NOTHING:
            left = 0;
            break;
        case SIDE:
            breakout->ball_x = dx < 0 ? BREAKOUT_LEFT : BREAKOUT_RIGHT;
            breakout->direction_x = -dx;
            break;
        case BACK:
            breakout->ball_y = BREAKOUT_BACK;
            breakout->direction_y = -dy;
            breakout->paddle_width = config->paddle_width / 2;
            break;
        case BRICK:
            breakout_break(breakout, config, brick, observations);
            if (breakout->score == BREAKOUT_MOST) return;
            break;
        case PADDLE:
            breakout->ball_y = BREAKOUT_RETURN;
            breakout_move_paddle(breakout, paddle_x + motion * (frames - left));
            breakout_meet_paddle(breakout, config, observations);
            break;
        case FLOOR:
            breakout->lives--;
            breakout_next_wall(breakout, observations);
            breakout_launch(breakout, config);
            return;
        }
    }
    breakout_move_paddle(breakout, paddle_x + motion * frames);
}

// What the action asks for: -1 left, 1 right.
static inline float breakout_action(const BreakoutConfig *config, Rows rows) {
    if (config->continuous) return *(const float *)rows.actions;
    const int64_t action = *(const int64_t *)rows.actions;
    return (float)((action == 2) - (action == 1));
}

static inline void breakout_step(Breakout *breakout, const BreakoutConfig *config, Rows rows) {
    float *observations = rows.observations;
    const float frames = (float)config->frameskip, way = breakout->speed * frames;
    const float motion = breakout_action(config, rows) * config->paddle_speed;
    const float x = breakout->ball_x + breakout->direction_x * way;
    const float y = breakout->ball_y + breakout->direction_y * way;
    const int broken = breakout->broken, lives = breakout->lives;
    // Most steps begin and end below the bricks and above the paddle: nothing to touch.
    if ((x >= BREAKOUT_LEFT) & (x <= BREAKOUT_RIGHT) & (y >= BREAKOUT_BELOW_BRICKS) & (y < BREAKOUT_RETURN) &
        (breakout->ball_y >= BREAKOUT_BELOW_BRICKS)) {
        breakout->ball_x = x;
        breakout->ball_y = y;
        breakout_move_paddle(breakout, breakout->paddle_x + motion * frames);
    } else {
        breakout_bounce(breakout, config, motion, observations);
    }
    const float reward = config->brick_reward * (float)(breakout->broken - broken) +
                         config->lost_reward * (float)(lives - breakout->lives);
    const int over = breakout->lives == 0 || breakout->score == BREAKOUT_MOST;
    breakout->steps++;
    breakout->episode_return += reward;
    const int cut = !over && breakout->steps >= config->max_steps;
    *rows.rewards = reward;
    *rows.terminals = (uint8_t)over;
    *rows.truncations = (uint8_t)cut;
    breakout_observe(breakout, config, observations);
    if (!over && !cut) return;

    breakout->log.score += (float)breakout->score;
    breakout->log.perf += (float)breakout->score / BREAKOUT_MOST;
    breakout->log.episode_return += breakout->episode_return;
    breakout->log.episode_length += (float)breakout->steps;
    breakout->log.bricks += (float)breakout->broken;
    breakout->log.hits += (float)breakout->hits;
    breakout->log.n += 1;
    if (cut) memcpy(rows.final_observations, observations, (size_t)breakout_observation_bytes(config));
    breakout_reset(breakout, config, rows);
}

// The court in its walls, the score on the left of it and the balls that are left on the right.
static inline void breakout_render(const Breakout *breakout, const BreakoutConfig *config, Frame frame) {
    const Color colors[BREAKOUT_ROWS] = {COLOR_CORAL, COLOR_ORANGE, COLOR_GOLD,
                                         COLOR_LEAF,  COLOR_SKY,    COLOR_VIOLET};
    const float wall = 6, aside = 52, gap = 0.5f;
    (void)config;
    frame = draw_view(frame, BREAKOUT_WIDTH + 2 * aside, BREAKOUT_FLOOR + 2 * wall, COLOR_NIGHT);
    frame.left += aside * frame.scale; // the court begins at 0, 0
    frame.top += wall * frame.scale;
    draw_number(frame, -wall - 4, 0, 3.5f, breakout->score, COLOR_WHITE);
    for (int life = 0; life < breakout->lives; life++)
        draw_disc(frame, BREAKOUT_WIDTH + wall + 11, 5 + 14 * (float)life, 4.5f, COLOR_TEAL);
    draw_rectangle(frame, -wall, -wall, BREAKOUT_WIDTH + 2 * wall, wall + BREAKOUT_FLOOR, COLOR_LINE);
    draw_rectangle(frame, 0, 0, BREAKOUT_WIDTH, BREAKOUT_FLOOR, COLOR_PANEL);
    for (int row = 0; row < BREAKOUT_ROWS; row++)
        for (int column = 0; column < BREAKOUT_COLUMNS; column++)
            if (breakout->bricks[row] >> column & 1)
                draw_rectangle(frame, (float)column * BREAKOUT_BRICK_WIDTH + gap,
                               BREAKOUT_BRICKS_TOP + (float)row * BREAKOUT_BRICK_HEIGHT + gap,
                               BREAKOUT_BRICK_WIDTH - 2 * gap, BREAKOUT_BRICK_HEIGHT - 2 * gap, colors[row]);
    draw_rectangle(frame, breakout->paddle_x - breakout->paddle_width / 2, BREAKOUT_PADDLE_Y,
                   breakout->paddle_width, 4, COLOR_TEAL);
    const float visible = 0.8f / frame.scale; // also in a terminal
    const float radius = BREAKOUT_HALF > visible ? BREAKOUT_HALF : visible;
    draw_disc(frame, breakout->ball_x, breakout->ball_y, radius, COLOR_WHITE);
}

#endif
