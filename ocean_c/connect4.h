// Connect four: four discs in a row, on seven columns of six cells, against an opponent that looks one move
// ahead: it completes its own four, else stops the agent's, else plays at random, towards the middle, but not
// below a cell that would give the agent four. It is beaten by two threats at once, side by side or one above
// the other. Who begins is random.
//
// Observation  22 x 7 signed bytes, each board with its top row first:
//                6  the discs: 1 the agent's, -1 the opponent's, 0 empty
//                6  1 where a disc would give the agent four
//                6  1 where a disc would give the opponent four
//                3  1 for each column where the agent would win now, where the opponent would, and where a disc
//                   would lift the opponent to a cell where it wins
//                1  1 for each column that is not full, which masks the actions
//              It is always the agent's turn.
// Actions      the column, 0 to 6; a disc in a full column loses the game.
// Reward       1 for a win, -1 for a loss, 0 for a draw.
// Episode      ends with four in a row, on a full board, or with a move in a full column. Never cut.
// Score        1 for a win, else 0; draws and moves in full columns are counted beside it.
//
// A board is 49 bits, seven a column from the left, the lowest cell first. The seventh bit of a column stays
// empty, so that no line of four goes over an edge: its cells are 1 (up), 7 (right), 6 or 8 (diagonal) apart.
#ifndef CONNECT4_H
#define CONNECT4_H
#include "env.h"

#define CONNECT4_COLUMNS 7
#define CONNECT4_ROWS 6
#define CONNECT4_CELLS (CONNECT4_ROWS * CONNECT4_COLUMNS)
#define CONNECT4_MASK (3 * CONNECT4_CELLS + 3 * CONNECT4_COLUMNS) // where it begins in an observation
#define CONNECT4_FLOOR 0x0040810204081ull                         // the lowest cell of each column
#define CONNECT4_BOARD (CONNECT4_FLOOR * 63)

typedef struct Connect4Config {
    float opponent_randomness; // share of its moves that it plays without looking
} Connect4Config;

typedef struct Connect4Log {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
    float draws;
    float full_columns; // games lost by a move in a full column
} Connect4Log;

typedef struct Connect4 {
    Rng rng;
    uint64_t agent, opponent; // their discs
    int moves;                // of the agent
    uint64_t last_move;       // for rendering, as is all that follows: the newest disc
    uint64_t finished_agent, finished_opponent, finished_move; // how the last game ended
    int wins, losses;                                          // since the vector was seeded
    Connect4Log log;
} Connect4;

static inline int connect4_agents(const Connect4Config *config) {
    (void)config;
    return 1;
}
static inline int connect4_observation_bytes(const Connect4Config *config) {
    (void)config;
    return CONNECT4_MASK + CONNECT4_COLUMNS;
}

static inline void connect4_init(Connect4 *game, const Connect4Config *config, Rng rng) {
    (void)config;
    game->rng = rng;
}

// The lowest empty cell of each column that has one: adding the floor carries through the discs of a column.
static inline uint64_t connect4_playable(uint64_t discs) { return (discs + CONNECT4_FLOOR) & CONNECT4_BOARD; }

static inline uint64_t connect4_column(int64_t column) { return 0x3Full << column * 7; }

// The discs that lie in a row of four.
static inline uint64_t connect4_fours(uint64_t discs) {
    uint64_t fours = 0;
    for (int i = 0; i < 4; i++) {
        const int apart = i == 0 ? 1 : i + 5;
        const uint64_t pairs = discs & discs >> apart, first = pairs & pairs >> 2 * apart;
        fours |= first | first << apart | first << 2 * apart | first << 3 * apart;
    }
    return fours;
}

// The empty cells, playable or not yet, that would make four of these discs.
static inline uint64_t connect4_threats(uint64_t discs, uint64_t all) {
    uint64_t threats = discs << 1 & discs << 2 & discs << 3;
    for (int apart = 6; apart <= 8; apart++) {
        const uint64_t pairs = discs & discs << apart; // the upper disc of each pair
        const uint64_t triples = pairs & discs << 2 * apart;
        threats |= triples << apart | triples >> 3 * apart;                                   // beside three
        threats |= (pairs << apart & discs >> apart) | (pairs >> 2 * apart & discs << apart); // between
    }
    return threats & CONNECT4_BOARD & ~all;
}

// One of the cells, of which there is at most one a column, by chance: columns weigh 1 2 3 4 3 2 1.
static inline uint64_t connect4_draw(Rng *rng, uint64_t random, uint64_t cells) {
    static const uint8_t columns[16] = {0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6};
    for (;; random = rng_next(rng))
        for (int draw = 0; draw < 10; draw++, random >>= 4) {
            const uint64_t cell = cells & connect4_column(columns[random & 15]);
            if (cell) return cell;
        }
}

// Where the lowest of these cells stands in an observed board.
static inline int connect4_place(uint64_t cells) {
    const int bit = __builtin_ctzll(cells), column = bit / 7, row = bit - column * 7;
    return (CONNECT4_ROWS - 1 - row) * CONNECT4_COLUMNS + column;
}

static inline void connect4_observe_move(uint64_t move, int8_t disc, int8_t *observations) {
    const int place = connect4_place(move);
    observations[place] = disc;
    if (place < CONNECT4_COLUMNS) observations[CONNECT4_MASK + place] = 0; // the column is full
}

static inline void connect4_observe_threats(const Connect4 *game, int8_t *observations) {
    const uint64_t all = game->agent | game->opponent, playable = connect4_playable(all);
    int8_t *columns = observations + 3 * CONNECT4_CELLS;
    memset(observations + CONNECT4_CELLS, 0, CONNECT4_MASK - CONNECT4_CELLS);
    for (uint64_t cells = connect4_threats(game->agent, all); cells; cells &= cells - 1) {
        const int place = connect4_place(cells), column = place % CONNECT4_COLUMNS;
        observations[CONNECT4_CELLS + place] = 1;
        columns[column] |= (cells & -cells & playable) != 0;
    }
    for (uint64_t cells = connect4_threats(game->opponent, all); cells; cells &= cells - 1) {
        const int place = connect4_place(cells), column = place % CONNECT4_COLUMNS;
        observations[2 * CONNECT4_CELLS + place] = 1;
        columns[CONNECT4_COLUMNS + column] |= (cells & -cells & playable) != 0;
        columns[2 * CONNECT4_COLUMNS + column] |= (cells & -cells & playable << 1) != 0;
    }
}

// The opponent's move, on a board that is not full; returns whether it wins.
static inline int connect4_reply(Connect4 *game, const Connect4Config *config, int8_t *observations) {
    const uint64_t all = game->agent | game->opponent, playable = connect4_playable(all);
    const uint64_t random = rng_next(&game->rng);
    uint64_t cells = playable;
    if ((float)(random >> 40) * 0x1p-24f >= config->opponent_randomness) {
        const uint64_t threats = connect4_threats(game->agent, all);
        const uint64_t blocks = threats & playable, safe = playable & ~(threats >> 1);
        const uint64_t wins = connect4_threats(game->opponent, all) & playable;
        cells = wins ? wins : blocks ? blocks : safe ? safe : playable;
    }
    const uint64_t move = connect4_draw(&game->rng, random, cells);
    game->opponent |= move;
    game->last_move = move;
    connect4_observe_move(move, -1, observations);
    return connect4_fours(game->opponent) != 0;
}

static inline void connect4_reset(Connect4 *game, const Connect4Config *config, Rows rows) {
    game->agent = game->opponent = game->last_move = 0;
    game->moves = 0;
    memset(rows.observations, 0, CONNECT4_MASK);
    memset((int8_t *)rows.observations + CONNECT4_MASK, 1, CONNECT4_COLUMNS);
    if (rng_next(&game->rng) >> 63) connect4_reply(game, config, rows.observations);
}

static inline void connect4_end(Connect4 *game, const Connect4Config *config, Rows rows, float reward) {
    *rows.rewards = reward;
    *rows.terminals = 1;
    game->wins += reward > 0;
    game->losses += reward < 0;
    game->finished_agent = game->agent;
    game->finished_opponent = game->opponent;
    game->finished_move = game->last_move;
    game->log.score += (float)(reward > 0);
    game->log.perf += (float)(reward > 0);
    game->log.episode_return += reward;
    game->log.episode_length += (float)game->moves;
    game->log.draws += (float)(reward == 0);
    game->log.n += 1;
    connect4_reset(game, config, rows);
}

static inline void connect4_step(Connect4 *game, const Connect4Config *config, Rows rows) {
    const uint64_t move =
        connect4_playable(game->agent | game->opponent) & connect4_column(*(const int64_t *)rows.actions);
    *rows.rewards = 0;
    *rows.terminals = 0;
    *rows.truncations = 0;
    game->moves++;
    if (!move) {
        game->log.full_columns += 1;
        connect4_end(game, config, rows, -1);
        return;
    }
    game->agent |= move;
    game->last_move = move;
    connect4_observe_move(move, 1, rows.observations);
    if (connect4_fours(game->agent))
        connect4_end(game, config, rows, 1);
    else if ((game->agent | game->opponent) == CONNECT4_BOARD)
        connect4_end(game, config, rows, 0);
    else if (connect4_reply(game, config, rows.observations))
        connect4_end(game, config, rows, -1);
    else if ((game->agent | game->opponent) == CONNECT4_BOARD)
        connect4_end(game, config, rows, 0);
    else
        connect4_observe_threats(game, rows.observations);
}

// A board whose cells are `cell` wide, its upper left corner at x, y. A white dot marks the newest disc,
// larger ones a row of four.
static inline void connect4_draw_board(Frame frame, float x, float y, float cell, uint64_t agent,
                                       uint64_t opponent, uint64_t last_move) {
    const Color blue = {44, 74, 150}, shade = {33, 56, 117};
    const float edge = cell * 0.12f, width = CONNECT4_COLUMNS * cell, height = CONNECT4_ROWS * cell;
    draw_rectangle(frame, x - edge, y - edge, width + 2 * edge, height + 2 * edge, blue);
    draw_rectangle(frame, x - edge, y + height + edge, width + 2 * edge, edge, shade);
    const uint64_t fours = connect4_fours(agent) | connect4_fours(opponent);
    for (int column = 0; column < CONNECT4_COLUMNS; column++)
        for (int row = 0; row < CONNECT4_ROWS; row++) {
            const uint64_t bit = 1ull << (column * 7 + row);
            const float cx = x + ((float)column + 0.5f) * cell;
            const float cy = y + ((float)(CONNECT4_ROWS - 1 - row) + 0.5f) * cell;
            draw_disc(frame, cx, cy, 0.43f * cell, shade);
            if (!((agent | opponent) & bit)) {
                draw_disc(frame, cx, cy, 0.39f * cell, COLOR_NIGHT);
                continue;
            }
            const Color color = agent & bit ? COLOR_GOLD : COLOR_CORAL;
            const Color dark = agent & bit ? (Color){222, 160, 48} : (Color){206, 70, 66};
            draw_disc(frame, cx, cy, 0.4f * cell, dark);
            draw_disc(frame, cx, cy, 0.33f * cell, color);
            if (fours & bit)
                draw_disc(frame, cx, cy, 0.2f * cell, COLOR_WHITE);
            else if (last_move & bit)
                draw_disc(frame, cx, cy, 0.12f * cell, COLOR_WHITE);
        }
}

// The game, and beside it games won and lost, and how the last one ended.
static inline void connect4_render(const Connect4 *game, const Connect4Config *config, Frame frame) {
    (void)config;
    frame = draw_view(frame, 10, 7.5f, COLOR_NIGHT);
    connect4_draw_board(frame, 0.4f, 0.75f, 1, game->agent, game->opponent, game->last_move);
    draw_disc(frame, 7.95f, 1.1f, 0.22f, COLOR_GOLD);
    draw_number(frame, 9.875f, 0.8125f, 0.125f, game->wins, COLOR_GOLD);
    draw_disc(frame, 7.95f, 2.1f, 0.22f, COLOR_CORAL);
    draw_number(frame, 9.875f, 1.8125f, 0.125f, game->losses, COLOR_CORAL);
    if (game->wins + game->losses || game->finished_move)
        connect4_draw_board(frame, 7.8f, 5.02f, 0.285f, game->finished_agent, game->finished_opponent,
                            game->finished_move);
}

#endif
