// Snake: many snakes on one map, each a row of its own, for one policy that plays against itself. Food makes
// a snake longer; walls, its own body and other bodies kill it, and what it was becomes food.
//
// A step is simultaneous, and its result does not depend on the order of the rows:
//   1. Every snake takes its direction. A tail leaves its cell unless the snake grows: its next cell is food
//      and it is shorter than max_length. So following a tail closely is safe, unless its snake is eating.
//   2. A snake whose next cell is a wall or still a body dies, and so do all whose next cells are the same.
//      Two that face each other cannot pass through: each runs into the other's neck.
//   3. The others take their next cell, and its food. Of the dead, each cell becomes food with probability
//      corpse_food; food on which heads met stays.
//   4. The dead begin anew at random places without walls and bodies, in the order of their rows; food
//      beneath is lost. Then food is added at random empty cells until there is as much as there should be.
// Places are drawn a limited number of times. A snake that found none waits without a body, and tries again
// every step; its life has begun, its window is all 0, its actions do nothing. Missing food waits likewise.
//
// Observation  window of (2 vision + 1)^2 signed bytes, the head in the middle: 1 food, 0 empty, -1 what
//              kills. The neck, too, is -1: it shows where the snake is heading.
// Actions      0 straight on, 1 up, 2 down, 3 left, 4 right; back onto the own neck is straight on, too.
// Reward       food_reward for a food, also for one that a full-grown snake eats; death_reward for a death.
// Episode      one life of one snake: ends with its death, or is cut after max_steps, when the snake
//              vanishes without becoming food and begins anew. The other rows go on.
// Score        food eaten in the life; perf is its share of SNAKE_SOLVED_FOOD, at most 1.
#ifndef SNAKE_H
#define SNAKE_H
#include "env.h"

#define SNAKE_MAX_SIZE 256
#define SNAKE_MAX_AGENTS 256
#define SNAKE_MAX_VISION 7   // so that a row of a window, 15 bytes, is one copy of 16
#define SNAKE_COPY 16        // bytes
#define SNAKE_START_LENGTH 3 // cells, of a new snake
#define SNAKE_SOLVED_FOOD 40
#define SNAKE_TRIES 16 // to find a free place
#define SNAKE_MAX_CELLS                                                                                      \
    ((SNAKE_MAX_SIZE + 2 * SNAKE_MAX_VISION) * (SNAKE_MAX_SIZE + SNAKE_MAX_VISION) + SNAKE_COPY)

typedef struct SnakeConfig {
    int agents;
    int width, height; // of the field between the walls
    int food;          // that is kept on the map
    int vision;        // cells that a snake sees to each side
    int max_length;
    int max_steps;
    float food_reward;
    float death_reward;
    float corpse_food;
} SnakeConfig;

typedef struct SnakeLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
    float length;                        // cells, at the end
    float hit_wall, hit_self, hit_other; // what ended the life; the rest were cut
} SnakeLog;

enum { SNAKE_FOOD = 1, SNAKE_EMPTY = 0, SNAKE_DEADLY = -1 };         // a cell
enum { SNAKE_MOVES, SNAKE_BLOCKED, SNAKE_HEADS_MEET, SNAKE_WAITS };  // a snake in a step
enum { SNAKE_HIT_WALL, SNAKE_HIT_SELF, SNAKE_HIT_OTHER, SNAKE_CUT }; // the end of a life

// A copy is one map. A cell is an index into it: rows of the field lie `stride` apart, with `vision` cells of
// wall between them and `vision` rows of it above and below, so a window is rows of the map as they are.
typedef struct Snake {
    Rng rng;
    int food, waiting; // how much is on the map, how many snakes are not
    int head[SNAKE_MAX_AGENTS], tail[SNAKE_MAX_AGENTS], next[SNAKE_MAX_AGENTS]; // cells
    int eaten[SNAKE_MAX_AGENTS], steps[SNAKE_MAX_AGENTS];                       // in this life
    uint8_t direction[SNAKE_MAX_AGENTS];                                        // up, down, left, right
    uint8_t eats[SNAKE_MAX_AGENTS], fate[SNAKE_MAX_AGENTS];                     // in this step
    SnakeLog log;
    int8_t map[SNAKE_MAX_CELLS];
    // Where a body is, the direction in which it goes on, from tail to head; in a cell just taken by a head,
    // its row. This is all there is to a body: no length of it costs memory, and a step touches its two ends.
    uint8_t way[SNAKE_MAX_CELLS];
} Snake;

static inline int snake_agents(const SnakeConfig *config) { return config->agents; }
static inline int snake_observation_bytes(const SnakeConfig *config) {
    return (2 * config->vision + 1) * (2 * config->vision + 1) * (int)sizeof(int8_t);
}

static inline void snake_init(Snake *game, const SnakeConfig *config, Rng rng) {
    (void)config;
    game->rng = rng;
}

static inline int snake_stride(const SnakeConfig *config) { return config->width + config->vision; }
static inline int snake_cell(const SnakeConfig *config, int column, int row) {
    return (row + config->vision) * snake_stride(config) + config->vision + column;
}
static inline int snake_column(const SnakeConfig *config, int cell) {
    return cell % snake_stride(config) - config->vision;
}
static inline int snake_row(const SnakeConfig *config, int cell) {
    return cell / snake_stride(config) - config->vision;
}
static inline int snake_random_cell(Snake *game, const SnakeConfig *config) {
    const int column = rng_int(&game->rng, config->width);
    return snake_cell(config, column, rng_int(&game->rng, config->height));
}
static inline int snake_length(const SnakeConfig *config, int eaten) {
    const int length = SNAKE_START_LENGTH + eaten;
    return length < config->max_length ? length : config->max_length;
}
// From a cell to the next in a direction.
static inline int snake_offset(const SnakeConfig *config, int direction) {
    const int size = direction < 2 ? snake_stride(config) : 1;
    return direction & 1 ? size : -size;
}

// Puts a waiting snake onto the map, straight, at a random place and in a random direction, if it finds one.
static inline void snake_spawn(Snake *game, const SnakeConfig *config, int agent) {
    for (int i = 0; i < SNAKE_TRIES; i++) {
        const int head = snake_random_cell(game, config), direction = rng_int(&game->rng, 4);
        const int offset = snake_offset(config, direction);
        int tail = head, length = 0;
        while (length < SNAKE_START_LENGTH && game->map[tail] != SNAKE_DEADLY) tail -= offset, length++;
        if (length < SNAKE_START_LENGTH) continue;
        tail += offset;
        game->head[agent] = head;
        game->tail[agent] = tail;
        game->direction[agent] = (uint8_t)direction;
        game->fate[agent] = SNAKE_MOVES;
        game->waiting--;
        for (int cell = tail; length > 0; cell += offset, length--) {
            game->food -= game->map[cell] == SNAKE_FOOD;
            game->map[cell] = SNAKE_DEADLY;
            game->way[cell] = (uint8_t)direction;
        }
        return;
    }
}

static inline void snake_spawn_waiting(Snake *game, const SnakeConfig *config) {
    for (int i = 0; i < config->agents && game->waiting; i++)
        if (game->fate[i] == SNAKE_WAITS) snake_spawn(game, config, i);
}

static inline void snake_add_food(Snake *game, const SnakeConfig *config) {
    int tries = SNAKE_TRIES;
    while (game->food < config->food && tries > 0) {
        const int cell = snake_random_cell(game, config);
        const int found = game->map[cell] == SNAKE_EMPTY;
        if (found) game->map[cell] = SNAKE_FOOD;
        game->food += found;
        tries = found ? SNAKE_TRIES : tries - 1;
    }
}

// A new life begins, without a body yet.
static inline void snake_wait(Snake *game, int agent) {
    game->head[agent] = game->tail[agent] = game->next[agent] = 0; // a wall, no snake's next cell
    game->eaten[agent] = game->steps[agent] = 0;
    game->direction[agent] = game->eats[agent] = 0;
    game->fate[agent] = SNAKE_WAITS;
    game->waiting++;
}

// Copies 16 bytes for a row of the window while that stays within it: what is too much is overwritten by the
// next row.
static inline void snake_observe(const Snake *game, const SnakeConfig *config, int agent, int8_t *window) {
    const int side = 2 * config->vision + 1, stride = snake_stride(config);
    if (game->fate[agent] == SNAKE_WAITS) {
        memset(window, SNAKE_EMPTY, (size_t)(side * side));
        return;
    }
    const int8_t *row = game->map + game->head[agent] - config->vision * (stride + 1);
    const int8_t *end = window + side * side;
    for (; end - window >= SNAKE_COPY; row += stride, window += side) memcpy(window, row, SNAKE_COPY);
    for (; window < end; row += stride, window += side) memcpy(window, row, (size_t)side);
}

static inline void snake_observe_all(const Snake *game, const SnakeConfig *config, Rows rows) {
    const int bytes = snake_observation_bytes(config);
    for (int i = 0; i < config->agents; i++)
        snake_observe(game, config, i, (int8_t *)rows.observations + i * bytes);
}

static inline void snake_reset(Snake *game, const SnakeConfig *config, Rows rows) {
    memset(game->map, SNAKE_DEADLY, sizeof(game->map));
    memset(game->way, 0, sizeof(game->way));
    for (int row = 0; row < config->height; row++)
        memset(game->map + snake_cell(config, 0, row), SNAKE_EMPTY, (size_t)config->width);
    game->food = game->waiting = 0;
    for (int i = 0; i < config->agents; i++) snake_wait(game, i);
    snake_spawn_waiting(game, config);
    snake_add_food(game, config);
    snake_observe_all(game, config, rows);
}

// Takes directions, next cells, and tails from where they were.
static inline void snake_move_tails(Snake *game, const SnakeConfig *config, const int64_t *actions) {
    int offsets[4];
    for (int direction = 0; direction < 4; direction++) offsets[direction] = snake_offset(config, direction);
    for (int i = 0; i < config->agents; i++) {
        if (game->fate[i] == SNAKE_WAITS) continue;
        const int old = game->direction[i], wanted = actions[i] ? (int)actions[i] - 1 : old;
        const int direction = wanted == (old ^ 1) ? old : wanted;
        const int head = game->head[i], next = head + offsets[direction], tail = game->tail[i];
        const int eats = game->map[next] == SNAKE_FOOD;
        game->direction[i] = game->way[head] = (uint8_t)direction;
        game->next[i] = next;
        game->eats[i] = (uint8_t)eats;
        if (eats && SNAKE_START_LENGTH + game->eaten[i] < config->max_length) continue;
        game->map[tail] = SNAKE_EMPTY;
        game->tail[i] = tail + offsets[game->way[tail]];
    }
}

// Who comes first takes the cell; who comes later finds out from `way` whose head took it, and both die:
// whichever came first, the fates are the same. Returns 0 if nobody dies.
static inline int snake_decide_fates(Snake *game, const SnakeConfig *config) {
    int deaths = 0;
    for (int i = 0; i < config->agents; i++) {
        if (game->fate[i] == SNAKE_WAITS) continue;
        const int next = game->next[i];
        if (game->map[next] != SNAKE_DEADLY) {
            game->map[next] = SNAKE_DEADLY;
            game->way[next] = (uint8_t)i;
            game->fate[i] = SNAKE_MOVES;
            continue;
        }
        deaths++;
        game->fate[i] = SNAKE_BLOCKED;
        // In a body, this is a direction; should it be the row of a snake with the same next cell, that one
        // is blocked, too.
        const int other = game->way[next];
        if (other < i && game->next[other] == next && game->fate[other] == SNAKE_MOVES)
            game->fate[other] = SNAKE_HEADS_MEET;
    }
    return deaths;
}

static inline void snake_log(Snake *game, const SnakeConfig *config, int agent, int end) {
    const float eaten = (float)game->eaten[agent], perf = eaten / SNAKE_SOLVED_FOOD;
    game->log.score += eaten;
    game->log.perf += perf < 1 ? perf : 1;
    game->log.episode_return += eaten * config->food_reward + (end == SNAKE_CUT ? 0 : config->death_reward);
    game->log.episode_length += (float)game->steps[agent];
    game->log.length +=
        game->fate[agent] == SNAKE_WAITS ? 0 : (float)snake_length(config, game->eaten[agent]);
    game->log.hit_wall += end == SNAKE_HIT_WALL;
    game->log.hit_self += end == SNAKE_HIT_SELF;
    game->log.hit_other += end == SNAKE_HIT_OTHER;
    game->log.n += 1;
}

// Takes a body from the map, each cell of which becomes food with a probability. Returns whether `cell` was
// part of it.
static inline int snake_remove(Snake *game, const SnakeConfig *config, int agent, float food, int cell) {
    const int head = game->head[agent];
    int at = game->tail[agent], found = 0, last;
    do {
        const int becomes_food = rng_float(&game->rng) < food;
        game->map[at] = becomes_food ? SNAKE_FOOD : SNAKE_EMPTY;
        game->food += becomes_food;
        found |= at == cell;
        last = at == head;
        at += snake_offset(config, game->way[at]);
    } while (!last);
    return found;
}

static inline void snake_bury_dead(Snake *game, const SnakeConfig *config) {
    for (int i = 0; i < config->agents; i++) {
        const int fate = game->fate[i], next = game->next[i];
        if (fate != SNAKE_BLOCKED && fate != SNAKE_HEADS_MEET) continue;
        if (fate == SNAKE_HEADS_MEET) game->map[next] = game->eats[i] ? SNAKE_FOOD : SNAKE_EMPTY;
        const int own = snake_remove(game, config, i, config->corpse_food, next);
        const int column = snake_column(config, next), row = snake_row(config, next);
        const int inside = column >= 0 && column < config->width && row >= 0 && row < config->height;
        snake_log(game, config, i, own ? SNAKE_HIT_SELF : inside ? SNAKE_HIT_OTHER : SNAKE_HIT_WALL);
        snake_wait(game, i);
    }
}

// Ends the lives that are old enough, after showing each what it would have seen.
static inline void snake_cut(Snake *game, const SnakeConfig *config, Rows rows) {
    const int bytes = snake_observation_bytes(config);
    for (int i = 0; i < config->agents; i++)
        if (rows.truncations[i])
            snake_observe(game, config, i, (int8_t *)rows.final_observations + i * bytes);
    for (int i = 0; i < config->agents; i++) {
        if (!rows.truncations[i]) continue;
        snake_log(game, config, i, SNAKE_CUT);
        if (game->fate[i] == SNAKE_WAITS)
            game->waiting--;
        else
            snake_remove(game, config, i, 0, 0);
        snake_wait(game, i);
    }
    snake_spawn_waiting(game, config);
    snake_add_food(game, config);
}

static inline void snake_step(Snake *game, const SnakeConfig *config, Rows rows) {
    const int agents = config->agents;
    snake_move_tails(game, config, rows.actions);
    const int deaths = snake_decide_fates(game, config);
    int eaten = 0;
    for (int i = 0; i < agents; i++) {
        const int moves = game->fate[i] == SNAKE_MOVES, eats = moves & game->eats[i];
        const int dies = !moves && game->fate[i] != SNAKE_WAITS;
        game->head[i] = moves ? game->next[i] : game->head[i];
        game->eaten[i] += eats;
        game->steps[i]++;
        eaten += eats;
        rows.rewards[i] = dies ? config->death_reward : eats ? config->food_reward : 0;
        rows.terminals[i] = (uint8_t)dies;
    }
    game->food -= eaten;
    if (deaths) snake_bury_dead(game, config);
    if (game->waiting) snake_spawn_waiting(game, config);
    snake_add_food(game, config);

    int cuts = 0;
    for (int i = 0; i < agents; i++) {
        const int cut = game->steps[i] >= config->max_steps;
        rows.truncations[i] = (uint8_t)cut;
        cuts += cut;
    }
    if (cuts) snake_cut(game, config, rows);
    snake_observe_all(game, config, rows);
}

static inline Color snake_mix(Color from, Color to, float share) {
    return (Color){(uint8_t)((float)from.r + ((float)to.r - (float)from.r) * share),
                   (uint8_t)((float)from.g + ((float)to.g - (float)from.g) * share),
                   (uint8_t)((float)from.b + ((float)to.b - (float)from.b) * share)};
}

// A body in straight lines from turn to turn; where a cell is less than a pixel, cell by cell, so that it
// fades instead of filling the picture.
static inline void snake_draw_body(const Snake *game, const SnakeConfig *config, int agent, Frame frame,
                                   float width, Color color) {
    int from = game->tail[agent], cell = from;
    while (cell != game->head[agent]) {
        const int way = game->way[cell];
        const float x = (float)snake_column(config, from) + 0.5f, y = (float)snake_row(config, from) + 0.5f;
        cell += snake_offset(config, way);
        if (frame.scale < 1)
            draw_rectangle(frame, x - width / 2, y - width / 2, width, width, color);
        else if (cell != game->head[agent] && game->way[cell] == way)
            continue;
        else
            draw_line(frame, x, y, (float)snake_column(config, cell) + 0.5f,
                      (float)snake_row(config, cell) + 0.5f, width, color);
        from = cell;
    }
}

static inline void snake_draw_head(const Snake *game, const SnakeConfig *config, int agent, Frame frame,
                                   float width, Color color) {
    const float x = (float)snake_column(config, game->head[agent]) + 0.5f;
    const float y = (float)snake_row(config, game->head[agent]) + 0.5f;
    const int direction = game->direction[agent];
    const float ahead_x = (float)((direction == 3) - (direction == 2));
    const float ahead_y = (float)((direction == 1) - (direction == 0));
    draw_disc(frame, x, y, width / 2, color);
    if (frame.scale < 5) return;
    for (int side = -1; side <= 1; side += 2)
        draw_disc(frame, x + 0.12f * ahead_x + 0.22f * (float)side * ahead_y,
                  y + 0.12f * ahead_y + 0.22f * (float)side * ahead_x, 0.11f, COLOR_NIGHT);
}

// Row 0 is the bright one with the white edge; the number is its food.
static inline void snake_render(const Snake *game, const SnakeConfig *config, Frame frame) {
    const Color colors[6] = {COLOR_SKY, COLOR_CORAL, COLOR_LEAF, COLOR_VIOLET, COLOR_ORANGE, COLOR_PINK};
    const float width = (float)config->width, height = (float)config->height;
    const float across = width / (float)frame.width, down = height / (float)frame.height;
    const float wall = (width > height ? width : height) / 50;
    float dot = 1.2f * (across > down ? across : down); // of the number: a pixel at least
    dot = dot > wall * 0.6f ? dot : wall * 0.6f;
    const float strip = 7.5f * dot;
    const Frame screen = {.pixels = frame.pixels, .width = frame.width, .height = frame.height, .scale = 1};
    frame = draw_view(frame, width + 2 * wall, height + wall + strip, COLOR_PANEL);
    frame.left += wall * frame.scale;
    frame.top += strip * frame.scale;
    draw_rectangle(frame, 0, 0, width, height, COLOR_NIGHT);
    const float pixels = floorf(dot * frame.scale) > 1 ? floorf(dot * frame.scale) : 1; // so that it is sharp
    draw_number(screen, floorf(frame.left + width * frame.scale), floorf(frame.top - 6 * pixels), pixels,
                game->eaten[0], COLOR_TEAL);

    // On a small frame things are drawn larger than a cell, so that their colours can be seen.
    const float pixel = 1 / frame.scale, food = pixel > 0.8f ? 0.4f * pixel : 0.32f;
    for (int row = 0; row < config->height; row++)
        for (int column = 0; column < config->width; column++)
            if (game->map[snake_cell(config, column, row)] == SNAKE_FOOD)
                draw_disc(frame, (float)column + 0.5f, (float)row + 0.5f, food, COLOR_GOLD);
    const float body = pixel > 1 ? 0.3f * pixel + 0.7f : 0.8f;
    for (int i = config->agents - 1; i >= 0; i--) {
        if (game->fate[i] == SNAKE_WAITS) continue;
        const Color color = i ? snake_mix(colors[i % 6], COLOR_NIGHT, 0.25f) : COLOR_TEAL;
        if (i == 0) snake_draw_body(game, config, i, frame, 1.5f * body, COLOR_WHITE);
        snake_draw_body(game, config, i, frame, body, color);
        snake_draw_head(game, config, i, frame, 1.25f * body, snake_mix(color, COLOR_WHITE, 0.5f));
    }
}

#endif
