// Tetris: place falling pieces so that full rows disappear, on a board of 10 x 20 cells with 4 hidden rows
// above it. Pieces come in shuffled bags of all seven, appear just above the board and fall by a row at
// once. They turn clockwise by the Super Rotation System, with its wall kicks. Every `steps_per_row` steps a
// piece falls by a row, or locks if it cannot; until then it may still slide and turn. Soft drop is such a
// fall at once, hard drop goes all the way down and locks. Hold swaps the piece with the one held, once a
// piece.
//
// Observation  504 signed bytes from -1 to 1:
//                200  board, row by row from the top: 1 filled, -1 the falling piece
//                200  what a hard drop would do: 1 where the piece would land, -1 gaps it would cover
//                  7  the kind of the piece: I, O, T, S, Z, J, L
//                  4  its rotation
//                 21  the kinds of the next three pieces
//                  7  the kind that is held; all 0 for none
//                  1  whether hold is allowed
//                  1  whether a fall is due at the end of this step
//                 63  the step in height from each column to the next, as one of -3 (or less) to 3 (or more)
// Actions      0 nothing, 1 left, 2 right, 3 rotate clockwise, 4 soft drop, 5 hard drop, 6 hold.
// Reward       when a piece locks: reward_piece, reward_line for each line cleared, and reward_hole for each
//              hole (an empty cell below a filled one) more than before; reward_game_over at the end. Pieces
//              pay because holes cost: else it is best to wait and place none.
// Episode      ends when a new piece has no room or one locks above the board; is cut after max_steps.
// Score        lines cleared; perf is their share of TETRIS_SOLVED_LINES, at most 1. Putting each piece where
//              it leaves the fewest holes and the lowest, smoothest stack clears some 360 in 5000 steps.
#ifndef TETRIS_H
#define TETRIS_H
#include "env.h"

enum { TETRIS_WIDTH = 10, TETRIS_HEIGHT = 20, TETRIS_HIDDEN = 4, TETRIS_ROWS = 24 };
enum { TETRIS_MARGIN = 4 }; // solid rows above and below, so that a piece's box never leaves the memory
enum { TETRIS_NEXT = 3, TETRIS_NONE = 7 };
enum { // where in a row of observations
    TETRIS_BOARD = 0,
    TETRIS_LANDING = 200,
    TETRIS_KIND = 400,
    TETRIS_ROTATION = 407,
    TETRIS_QUEUE = 411,
    TETRIS_HELD = 432,
    TETRIS_CAN_HOLD = 439,
    TETRIS_DUE = 440,
    TETRIS_CONTOUR = 441,
    TETRIS_OBSERVATIONS = 504
};
#define TETRIS_SOLVED_LINES 180

typedef struct TetrisConfig {
    int steps_per_row;
    int max_steps;
    float reward_line;
    float reward_piece;
    float reward_hole;
    float reward_game_over;
} TetrisConfig;

typedef struct TetrisLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
    float pieces;
    float tetrises; // four lines at once
} TetrisLog;

// Rows are counted from the highest hidden one, columns from the left. A row is 16 bits, column 0 at bit 13
// and column 9 at bit 4; the bits beside them are walls, always set.
typedef struct Tetris {
    uint16_t rows[TETRIS_MARGIN + TETRIS_ROWS + TETRIS_MARGIN];
    uint64_t colors[TETRIS_ROWS]; // for drawing: 4 bits a cell, its kind + 1
    Rng rng;
    int kind, rotation, row, column; // of the falling piece; row and column of its box's upper left corner
    int landing;                     // the row at which it would come to rest
    int timer;                       // steps since it last fell
    int held, can_hold;
    uint8_t next[TETRIS_NEXT];
    uint8_t bag; // bit set of the kinds that are left in it
    int holes;
    int8_t heights[16]; // of the columns, the first TETRIS_WIDTH of them
    int steps, lines, pieces, tetrises;
    float episode_return;
    TetrisLog log;
} Tetris;

#define TETRIS_FULL 0xFFFF
#define TETRIS_EMPTY 0xC00F

// A piece in its box of 4 x 4: a hexadecimal digit a row, from the top, the leftmost cell its highest bit.
// Here it becomes four rows of 16 bits, with the box against the right end.
#define TETRIS_SHAPE(box)                                                                                    \
    ((uint64_t)((box) >> 12 & 15) | (uint64_t)((box) >> 8 & 15) << 16 | (uint64_t)((box) >> 4 & 15) << 32 |  \
     (uint64_t)((box) & 15) << 48)
#define TETRIS_TURNS(a, b, c, d) {TETRIS_SHAPE(a), TETRIS_SHAPE(b), TETRIS_SHAPE(c), TETRIS_SHAPE(d)}
static const uint64_t TETRIS_SHAPES[7][4] = {
    TETRIS_TURNS(0x0F00, 0x2222, 0x00F0, 0x4444), // I
    TETRIS_TURNS(0x6600, 0x6600, 0x6600, 0x6600), // O
    TETRIS_TURNS(0x4E00, 0x4640, 0x0E40, 0x4C40), // T
    TETRIS_TURNS(0x6C00, 0x4620, 0x06C0, 0x8C40), // S
    TETRIS_TURNS(0xC600, 0x2640, 0x0C60, 0x4C80), // Z
    TETRIS_TURNS(0x8E00, 0x6440, 0x0E20, 0x44C0), // J
    TETRIS_TURNS(0x2E00, 0x4460, 0x0E80, 0xC440), // L
};

// Where a turn clockwise from each rotation is tried: {columns to the right, rows down}, the first that fits.
static const int8_t TETRIS_KICKS[2][4][5][2] = {
    {{{0, 0}, {-1, 0}, {-1, -1}, {0, 2}, {-1, 2}}, // all but I
     {{0, 0}, {1, 0}, {1, 1}, {0, -2}, {1, -2}},
     {{0, 0}, {1, 0}, {1, -1}, {0, 2}, {1, 2}},
     {{0, 0}, {-1, 0}, {-1, 1}, {0, -2}, {-1, -2}}},
    {{{0, 0}, {-2, 0}, {1, 0}, {-2, 1}, {1, -2}}, // I
     {{0, 0}, {-1, 0}, {2, 0}, {-1, -2}, {2, 1}},
     {{0, 0}, {2, 0}, {-1, 0}, {2, -1}, {-1, 2}},
     {{0, 0}, {1, 0}, {-2, 0}, {1, 2}, {-2, -1}}},
};

static inline int tetris_agents(const TetrisConfig *config) {
    (void)config;
    return 1;
}
static inline int tetris_observation_bytes(const TetrisConfig *config) {
    (void)config;
    return TETRIS_OBSERVATIONS * (int)sizeof(int8_t);
}

static inline void tetris_init(Tetris *tetris, const TetrisConfig *config, Rng rng) {
    (void)config;
    tetris->rng = rng;
}

// A piece's cells as bits of the four rows from its box's upper row on. What a kick shifts beyond a row's
// end falls on a wall of the next row, so that it collides all the same.
static inline uint64_t tetris_cells(int kind, int rotation, int column) {
    return TETRIS_SHAPES[kind][rotation] << (TETRIS_WIDTH - column);
}

// Four rows of the board in one number, the first in its lowest bits.
static inline uint64_t tetris_window(const Tetris *tetris, int row) {
    uint64_t window;
    memcpy(&window, tetris->rows + TETRIS_MARGIN + row, sizeof(window));
    return window;
}

static inline void tetris_find_landing(Tetris *tetris) {
    const uint64_t cells = tetris_cells(tetris->kind, tetris->rotation, tetris->column);
    int row = tetris->row;
    while (!(tetris_window(tetris, row + 1) & cells)) row++;
    tetris->landing = row;
}

// A random kind from the bag; an empty bag is filled first.
static inline int tetris_draw(Tetris *tetris) {
    unsigned bag = tetris->bag ? tetris->bag : 0x7F;
    unsigned rest = bag;
    for (int skip = rng_int(&tetris->rng, __builtin_popcount(bag)); skip > 0; skip--) rest &= rest - 1;
    const int kind = __builtin_ctz(rest);
    tetris->bag = (uint8_t)(bag & ~(1u << kind));
    return kind;
}

// A new falling piece. Returns whether there was room.
static inline int tetris_spawn(Tetris *tetris, int kind) {
    tetris->kind = kind;
    tetris->rotation = 0;
    tetris->row = TETRIS_HIDDEN - 2;
    tetris->column = 3;
    tetris->timer = 0;
    if (tetris_window(tetris, tetris->row) & tetris_cells(kind, 0, tetris->column)) return 0;
    tetris_find_landing(tetris);
    tetris->row += tetris->row < tetris->landing;
    return 1;
}

static inline int tetris_spawn_next(Tetris *tetris) {
    const int kind = tetris->next[0];
    for (int i = 1; i < TETRIS_NEXT; i++) tetris->next[i - 1] = tetris->next[i];
    tetris->next[TETRIS_NEXT - 1] = (uint8_t)tetris_draw(tetris);
    return tetris_spawn(tetris, kind);
}

static inline int tetris_hold(Tetris *tetris) {
    const int held = tetris->held;
    tetris->held = tetris->kind;
    tetris->can_hold = 0;
    return held == TETRIS_NONE ? tetris_spawn_next(tetris) : tetris_spawn(tetris, held);
}

static inline void tetris_rotate(Tetris *tetris) {
    if (tetris->kind == 1) return; // O
    const int8_t (*kicks)[2] = TETRIS_KICKS[tetris->kind == 0][tetris->rotation];
    const int rotation = (tetris->rotation + 1) & 3;
    for (int i = 0; i < 5; i++) {
        const int row = tetris->row + kicks[i][1], column = tetris->column + kicks[i][0];
        if (tetris_window(tetris, row) & tetris_cells(tetris->kind, rotation, column)) continue;
        tetris->rotation = rotation;
        tetris->row = row;
        tetris->column = column;
        return;
    }
}

// Eight bits to eight bytes of 0 or 1, the highest bit first.
static inline uint64_t tetris_bytes(unsigned bits) {
    const uint64_t each = 0x0101010101010101u, picked = bits * each & 0x0102040810204080u;
    return (picked + 0x7F * each) >> 7 & each;
}

// Counts holes and heights, row by row: `covered` are the columns with a filled cell here or above.
static inline void tetris_measure(Tetris *tetris) {
    const unsigned columns = TETRIS_FULL & ~TETRIS_EMPTY;
    unsigned covered = 0;
    int holes = 0;
    uint64_t heights[2] = {0, 0};
    for (int row = 0; row < TETRIS_ROWS; row++) {
        const unsigned filled = tetris->rows[TETRIS_MARGIN + row] & columns;
        covered |= filled;
        holes += __builtin_popcount(covered & ~filled);
        heights[0] += tetris_bytes(covered >> 6 & 0xFF);
        heights[1] += tetris_bytes(covered << 2 & 0xC0);
    }
    tetris->holes = holes;
    memcpy(tetris->heights, heights, sizeof(heights));
}

// Removes the full ones of the four rows from `row` on. Returns how many.
static inline int tetris_clear_lines(Tetris *tetris, int row) {
    int lines = 0;
    const int first = row > 0 ? row : 0, last = row + 3 < TETRIS_ROWS ? row + 3 : TETRIS_ROWS - 1;
    for (int full = first; full <= last; full++) {
        if (tetris->rows[TETRIS_MARGIN + full] != TETRIS_FULL) continue;
        uint16_t *rows = tetris->rows + TETRIS_MARGIN;
        memmove(rows + 1, rows, (size_t)full * sizeof(*rows));
        memmove(tetris->colors + 1, tetris->colors, (size_t)full * sizeof(*tetris->colors));
        rows[0] = TETRIS_EMPTY;
        tetris->colors[0] = 0;
        lines++;
    }
    return lines;
}

// The falling piece becomes part of the board. Adds to `reward`; returns how many lines went, or -1 if the
// piece is wholly above the board.
static inline int tetris_lock(Tetris *tetris, const TetrisConfig *config, float *reward) {
    const uint64_t cells = tetris_cells(tetris->kind, tetris->rotation, tetris->column);
    const uint64_t window = tetris_window(tetris, tetris->row) | cells;
    memcpy(tetris->rows + TETRIS_MARGIN + tetris->row, &window, sizeof(window));
    int row = 0;
    for (uint64_t rest = cells; rest; rest &= rest - 1) {
        const int bit = __builtin_ctzll(rest), column = 13 - (bit & 15);
        row = tetris->row + (bit >> 4);
        tetris->colors[row] |= (uint64_t)(tetris->kind + 1) << 4 * column;
    }
    tetris->pieces++;
    if (row < TETRIS_HIDDEN) return -1; // the row of the lowest cell, which came last
    const int lines = tetris_clear_lines(tetris, tetris->row), holes = tetris->holes;
    tetris_measure(tetris);
    tetris->lines += lines;
    tetris->tetrises += lines == 4;
    tetris->can_hold = 1;
    *reward += config->reward_piece + config->reward_line * (float)lines +
               config->reward_hole * (float)(tetris->holes - holes);
    return lines;
}

// Ten cells of observations: 1 for the columns in `ones`, -1 for those in `minus_ones`.
static inline void tetris_write_row(int8_t *cells, unsigned ones, unsigned minus_ones) {
    const uint64_t left = tetris_bytes(ones >> 6 & 0xFF) | tetris_bytes(minus_ones >> 6 & 0xFF) * 0xFF;
    const unsigned one = ones >> 4, minus = minus_ones >> 4;
    const uint16_t right =
        (uint16_t)((one >> 1 & 1) | (one & 1) << 8 | ((minus >> 1 & 1) | (minus & 1) << 8) * 0xFF);
    memcpy(cells, &left, sizeof(left));
    memcpy(cells + 8, &right, sizeof(right));
}

// The board's rows from first to last, with the falling piece, as far as they are not hidden.
static inline void tetris_observe_rows(const Tetris *tetris, int8_t *observations, int first, int last) {
    const uint64_t cells = tetris_cells(tetris->kind, tetris->rotation, tetris->column);
    if (first < TETRIS_HIDDEN) first = TETRIS_HIDDEN;
    if (last >= TETRIS_ROWS) last = TETRIS_ROWS - 1;
    for (int row = first; row <= last; row++) {
        const unsigned below = (unsigned)(row - tetris->row); // the upper row of the box
        const unsigned piece = below < 4 ? cells >> 16 * below & 0xFFFF : 0;
        tetris_write_row(observations + TETRIS_BOARD + (row - TETRIS_HIDDEN) * TETRIS_WIDTH,
                         tetris->rows[TETRIS_MARGIN + row], piece);
    }
}

static inline void tetris_observe_landing(const Tetris *tetris, int8_t *observations) {
    uint64_t cells = tetris_cells(tetris->kind, tetris->rotation, tetris->column);
    memset(observations + TETRIS_LANDING, 0, TETRIS_HEIGHT * TETRIS_WIDTH);
    unsigned gaps = 0; // columns where nothing is filled between the piece and this row
    for (int row = tetris->landing; cells || gaps; row++, cells >>= 16) {
        const unsigned piece = cells & 0xFFFF;
        gaps = (gaps | piece) & ~(unsigned)tetris->rows[TETRIS_MARGIN + row];
        if (row >= TETRIS_HIDDEN && row < TETRIS_ROWS)
            tetris_write_row(observations + TETRIS_LANDING + (row - TETRIS_HIDDEN) * TETRIS_WIDTH, piece,
                             gaps & ~piece);
    }
}

static inline void tetris_observe_kind(int8_t *observations, int kind) {
    const uint64_t one_hot = kind == TETRIS_NONE ? 0 : 1ull << 8 * kind;
    memcpy(observations, &one_hot, 7);
}

static inline void tetris_observe_rotation(const Tetris *tetris, int8_t *observations) {
    const uint32_t one_hot = 1u << 8 * tetris->rotation;
    memcpy(observations + TETRIS_ROTATION, &one_hot, sizeof(one_hot));
}

// What a new piece changes, but for the board.
static inline void tetris_observe_pieces(const Tetris *tetris, int8_t *observations) {
    tetris_observe_kind(observations + TETRIS_KIND, tetris->kind);
    for (int i = 0; i < TETRIS_NEXT; i++)
        tetris_observe_kind(observations + TETRIS_QUEUE + 7 * i, tetris->next[i]);
    tetris_observe_kind(observations + TETRIS_HELD, tetris->held);
    observations[TETRIS_CAN_HOLD] = (int8_t)tetris->can_hold;
}

static inline void tetris_observe_contour(const Tetris *tetris, int8_t *observations) {
    for (int i = 0; i < TETRIS_WIDTH - 1; i++) {
        int step = tetris->heights[i + 1] - tetris->heights[i];
        step = step < -3 ? -3 : step > 3 ? 3 : step;
        tetris_observe_kind(observations + TETRIS_CONTOUR + 7 * i, step + 3);
    }
}

static inline void tetris_reset(Tetris *tetris, const TetrisConfig *config, Rows rows) {
    for (int row = 0; row < TETRIS_MARGIN + TETRIS_ROWS + TETRIS_MARGIN; row++)
        tetris->rows[row] =
            row >= TETRIS_MARGIN && row < TETRIS_MARGIN + TETRIS_ROWS ? TETRIS_EMPTY : TETRIS_FULL;
    memset(tetris->colors, 0, sizeof(tetris->colors));
    tetris->held = TETRIS_NONE;
    tetris->can_hold = 1;
    tetris->bag = 0;
    tetris->holes = 0;
    memset(tetris->heights, 0, sizeof(tetris->heights));
    tetris->steps = tetris->lines = tetris->pieces = tetris->tetrises = 0;
    tetris->episode_return = 0;
    for (int i = 0; i < TETRIS_NEXT; i++) tetris->next[i] = (uint8_t)tetris_draw(tetris);
    tetris_spawn_next(tetris);

    int8_t *observations = rows.observations;
    tetris_observe_rows(tetris, observations, 0, TETRIS_ROWS);
    tetris_observe_landing(tetris, observations);
    tetris_observe_pieces(tetris, observations);
    tetris_observe_rotation(tetris, observations);
    tetris_observe_contour(tetris, observations);
    observations[TETRIS_DUE] = config->steps_per_row == 1;
}

static inline void tetris_step(Tetris *tetris, const TetrisConfig *config, Rows rows) {
    const int64_t action = *(const int64_t *)rows.actions;
    int8_t *observations = rows.observations;
    const int old_row = tetris->row, old_column = tetris->column, old_rotation = tetris->rotation;
    int alive = 1, spawned = 0, lines = 0;
    float reward = 0;

    if (action == 1 || action == 2) {
        const int column = tetris->column + (action == 2) - (action == 1);
        const uint64_t cells = tetris_cells(tetris->kind, tetris->rotation, column);
        if (!(tetris_window(tetris, tetris->row) & cells)) tetris->column = column;
    } else if (action == 3) {
        tetris_rotate(tetris);
    } else if (action == 5) {
        tetris->row = tetris->landing;
    } else if (action == 6 && tetris->can_hold) {
        alive = tetris_hold(tetris);
        spawned = 1;
    }
    const int turned = tetris->rotation != old_rotation;
    const int moved = turned || tetris->column != old_column;
    if (moved && !spawned) tetris_find_landing(tetris);

    int rest = old_row; // where the old piece was last
    if (!spawned && (++tetris->timer >= config->steps_per_row || action == 4 || action == 5)) {
        tetris->timer = 0;
        if (tetris->row < tetris->landing) {
            tetris->row++;
        } else {
            rest = tetris->row;
            lines = tetris_lock(tetris, config, &reward);
            alive = lines >= 0 && tetris_spawn_next(tetris);
            spawned = 1;
        }
    }
    if (!alive) reward += config->reward_game_over;
    tetris->steps++;
    tetris->episode_return += reward;
    const int cut = alive && tetris->steps >= config->max_steps;
    *rows.rewards = reward;
    *rows.terminals = (uint8_t)!alive;
    *rows.truncations = (uint8_t)cut;

    if (alive) {
        observations[TETRIS_DUE] = tetris->timer + 1 >= config->steps_per_row;
        if (lines)
            tetris_observe_rows(tetris, observations, 0, TETRIS_ROWS);
        else if (moved || spawned || tetris->row != old_row) {
            tetris_observe_rows(tetris, observations, tetris->row, tetris->row + 3);
            if (old_row != tetris->row) tetris_observe_rows(tetris, observations, old_row, old_row + 3);
            if (rest != old_row) tetris_observe_rows(tetris, observations, rest, rest + 3);
        }
        if (moved || spawned) {
            tetris_observe_rotation(tetris, observations);
            tetris_observe_landing(tetris, observations);
        }
        if (spawned) {
            tetris_observe_pieces(tetris, observations);
            tetris_observe_contour(tetris, observations);
        }
        if (!cut) return;
        memcpy(rows.final_observations, observations, TETRIS_OBSERVATIONS);
    }
    const float score = (float)tetris->lines;
    tetris->log.score += score;
    tetris->log.perf += score < TETRIS_SOLVED_LINES ? score / TETRIS_SOLVED_LINES : 1;
    tetris->log.episode_return += tetris->episode_return;
    tetris->log.episode_length += (float)tetris->steps;
    tetris->log.pieces += (float)tetris->pieces;
    tetris->log.tetrises += (float)tetris->tetrises;
    tetris->log.n += 1;
    tetris_reset(tetris, config, rows);
}

static const Color TETRIS_COLORS[7] = {COLOR_TEAL,  COLOR_GOLD, COLOR_VIOLET, COLOR_LEAF,
                                       COLOR_CORAL, COLOR_SKY,  COLOR_ORANGE};

static inline void tetris_draw_piece(Frame frame, float x, float y, int kind) {
    const uint64_t shape = TETRIS_SHAPES[kind][0];
    x -= kind == 0 || kind == 1 ? 2 : 1.5f; // centred
    y -= kind == 0 ? 1.5f : 1;
    for (int row = 0; row < 4; row++)
        for (int column = 0; column < 4; column++)
            if (shape >> (16 * row + 3 - column) & 1)
                draw_rectangle(frame, x + (float)column + 0.04f, y + (float)row + 0.04f, 0.92f, 0.92f,
                               TETRIS_COLORS[kind]);
}

// The board in the middle, the held piece and the lines on its left, the next pieces on its right.
static inline void tetris_render(const Tetris *tetris, const TetrisConfig *config, Frame frame) {
    (void)config;
    frame = draw_view(frame, 28, 22, COLOR_NIGHT);
    const float left = 9, top = 1;
    draw_rectangle(frame, left - 0.25f, top - 0.25f, TETRIS_WIDTH + 0.5f, TETRIS_HEIGHT + 0.5f, COLOR_LINE);
    draw_rectangle(frame, left, top, TETRIS_WIDTH, TETRIS_HEIGHT, COLOR_PANEL);
    const uint64_t cells = tetris_cells(tetris->kind, tetris->rotation, tetris->column);
    const Color own = TETRIS_COLORS[tetris->kind];
    for (int row = TETRIS_HIDDEN - 1; row < TETRIS_ROWS; row++)
        for (int column = 0; column < TETRIS_WIDTH; column++) {
            const float x = left + (float)column + 0.04f, y = top + (float)(row - TETRIS_HIDDEN) + 0.04f;
            const unsigned below = (unsigned)(row - tetris->row), under = (unsigned)(row - tetris->landing);
            const int color = (int)(tetris->colors[row] >> 4 * column & 15);
            if (color)
                draw_rectangle(frame, x, y, 0.92f, 0.92f, TETRIS_COLORS[color - 1]);
            else if (below < 4 && cells >> (16 * below + 13 - (unsigned)column) & 1)
                draw_rectangle(frame, x, y, 0.92f, 0.92f, own);
            else if (under < 4 && cells >> (16 * under + 13 - (unsigned)column) & 1) {
                draw_rectangle(frame, x, y, 0.92f, 0.92f, own);
                draw_rectangle(frame, x + 0.12f, y + 0.12f, 0.68f, 0.68f, COLOR_PANEL);
            }
        }
    draw_rectangle(frame, 1.5f, top, 6, 4, COLOR_PANEL);
    if (tetris->held != TETRIS_NONE) tetris_draw_piece(frame, 4.5f, top + 2, tetris->held);
    draw_rectangle(frame, 20.5f, top, 6, 10, COLOR_PANEL);
    for (int i = 0; i < TETRIS_NEXT; i++)
        tetris_draw_piece(frame, 23.5f, top + 2 + 3 * (float)i, tetris->next[i]);
    draw_number(frame, 7.5f, top + 7, 0.5f, tetris->lines, COLOR_WHITE);
}

#endif
