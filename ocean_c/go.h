// Go on 7 x 7 to 19 x 19 points against a scripted opponent. Area scoring (Tromp-Taylor): stones, and empty
// points from which one colour alone can be reached, and komi for white, whom the opponent or the agent plays
// at random. Suicide is illegal, and so is to take a ko back at once; longer cycles end at the move limit.
//
// Opponent     takes stones in atari; else saves its own; else puts stones in atari; else plays at random, on
//              the edge last if no stone is beside the point. But to take stones it does not play where its
//              own would have one liberty, and but to save some it fills no point that its own enclose. It
//              passes when nothing is left, and ends the game by a pass if the agent passes and is behind.
// Observation  signed bytes in a row, for n = size x size points, row by row from the top:
//              n       1 the agent's stone, -1 the opponent's, 0 empty
//              1       colour: 1 the agent is black, -1 white
//              1       1 if the opponent has just passed, so that a pass ends the game
//              4       1 if fewer than 32, 16, 8, 4 moves are left to the move limit
//              n + 1   with legal_moves: 1 where the agent may play; the last is the pass
//              n       without: 1 the point that ko forbids to the agent
// Actions      a point, row * size + column, or n: pass. An illegal move is a pass, and is counted: it costs
//              a turn and may end the game, but a game goes on after one and has something to teach.
// Reward       1 for a win, -1 for a loss, at the end; 0 for a draw, which a komi of half a point rules out.
// Episode      ends with two passes in a row, or after move_limit moves a point, by both sides, passes
//              counted. That too is a true end: the board is scored then, and the limit can be seen coming.
// Score        1 for a win, else 0.
//
// A set of points is a row of bits, size + 1 for each line of the board: the last bit of a line stays empty,
// so that neighbours are shifts by one bit and by a line. How many words that takes is known to the compiler,
// as functions here are inlined into a version of go_turn for each of three sizes.
#ifndef GO_H
#define GO_H
#include "env.h"

#define GO_WORDS 6 // 19 lines of 20 bits
#define GO_SCALARS 6
#define GO_PASS (-1)
#define GO_INLINE static inline __attribute__((always_inline))

typedef struct GoConfig {
    int size;
    float komi;     // points for white
    int move_limit; // moves of both sides for each point of the board
    int legal_moves;
} GoConfig;

typedef struct GoLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
    float margin;        // points ahead at the end, komi included
    float illegal_moves; // of the agent
    float limited;       // games that the move limit ended
} GoLog;

typedef struct GoBits {
    uint64_t word[GO_WORDS];
} GoBits;

enum { GO_AGENT, GO_OPPONENT };

typedef struct Go {
    Rng rng;
    GoBits empty;
    GoBits stones[2]; // of agent and opponent
    GoBits atari[2];  // those in groups with one liberty
    GoBits two[2];    // those in groups with two
    GoBits legal;     // where the agent may play now
    int ko;           // the point that may not be played now, or GO_PASS
    int black;        // which side
    int passed;       // the last move was a pass
    int moves;        // of both sides
    int steps, illegal_moves;
    int last_move; // for rendering, as is all that follows
    int captured[2];
    GoBits finished[2]; // stones at the end of the last game
    int finished_black;
    int wins, losses; // since the vector was seeded
    GoLog log;
} Go;

// Size of the board, and how many words are looked at: at least those that its bits take.
typedef struct GoShape {
    int size, words;
} GoShape;

static inline int go_agents(const GoConfig *config) {
    (void)config;
    return 1;
}
static inline int go_observation_bytes(const GoConfig *config) {
    const int points = config->size * config->size;
    return (2 * points + GO_SCALARS + (config->legal_moves != 0)) * (int)sizeof(int8_t);
}

static inline void go_init(Go *go, const GoConfig *config, Rng rng) {
    (void)config;
    go->rng = rng;
}

// Sets of points. A point's bit is its row * (size + 1) + its column.

GO_INLINE int go_bit_of(int action, GoShape shape) { return action + action / shape.size; }

GO_INLINE int go_any(GoBits a, GoShape shape) {
    uint64_t any = 0;
    for (int i = 0; i < shape.words; i++) any |= a.word[i];
    return any != 0;
}
GO_INLINE int go_count(GoBits a, GoShape shape) {
    int count = 0;
    for (int i = 0; i < shape.words; i++) count += __builtin_popcountll(a.word[i]);
    return count;
}
GO_INLINE int go_has(const GoBits *a, int bit, GoShape shape) {
    return (int)(a->word[shape.words == 1 ? 0 : bit >> 6] >> (bit & 63) & 1);
}
GO_INLINE GoBits go_single(int bit, GoShape shape) {
    GoBits out = {{0}};
    for (int i = 0; i < shape.words; i++)
        out.word[i] = shape.words == 1 || bit >> 6 == i ? 1ull << (bit & 63) : 0;
    return out;
}
GO_INLINE GoBits go_or(GoBits a, GoBits b, GoShape shape) {
    for (int i = 0; i < shape.words; i++) a.word[i] |= b.word[i];
    return a;
}
GO_INLINE GoBits go_and(GoBits a, GoBits b, GoShape shape) {
    for (int i = 0; i < shape.words; i++) a.word[i] &= b.word[i];
    return a;
}
GO_INLINE GoBits go_without(GoBits a, GoBits b, GoShape shape) {
    for (int i = 0; i < shape.words; i++) a.word[i] &= ~b.word[i];
    return a;
}
// The lowest point of a set that is not empty.
GO_INLINE GoBits go_lowest(GoBits a, GoShape shape) {
    uint64_t taken = 0; // all ones from the word after the one that holds it
    for (int i = 0; i < shape.words; i++) {
        const uint64_t lowest = a.word[i] & -a.word[i] & ~taken;
        taken |= -(uint64_t)(lowest != 0);
        a.word[i] = lowest;
    }
    return a;
}
GO_INLINE int go_first(GoBits a, GoShape shape) {
    for (int i = 0; i < shape.words; i++)
        if (a.word[i]) return i * 64 + __builtin_ctzll(a.word[i]);
    return GO_PASS;
}
// Every point moved by so many bits, up or down. What leaves a line lands in its spare bit.
GO_INLINE GoBits go_up(GoBits a, int by, GoShape shape) {
    GoBits out = {{0}};
    for (int i = 0; i < shape.words; i++)
        out.word[i] = a.word[i] << by | (i > 0 ? a.word[i - 1] >> (64 - by) : 0);
    return out;
}
GO_INLINE GoBits go_down(GoBits a, int by, GoShape shape) {
    GoBits out = {{0}};
    for (int i = 0; i < shape.words; i++)
        out.word[i] = a.word[i] >> by | (i + 1 < shape.words ? a.word[i + 1] << (64 - by) : 0);
    return out;
}
// The points beside a set, with some of its own; spare bits can be among them.
GO_INLINE GoBits go_near(GoBits a, GoShape shape) {
    const GoBits sides = go_or(go_up(a, 1, shape), go_down(a, 1, shape), shape);
    const int line = shape.size + 1;
    return go_or(sides, go_or(go_up(a, line, shape), go_down(a, line, shape), shape), shape);
}
// The points with at least two neighbours in a set, or with four.
GO_INLINE GoBits go_near_two(GoBits a, GoShape shape, int four) {
    const int line = shape.size + 1;
    const GoBits e = go_up(a, 1, shape), w = go_down(a, 1, shape);
    const GoBits s = go_up(a, line, shape), n = go_down(a, line, shape);
    for (int i = 0; i < shape.words; i++)
        a.word[i] = four ? e.word[i] & w.word[i] & s.word[i] & n.word[i]
                         : (e.word[i] & w.word[i]) | (s.word[i] & n.word[i]) |
                               ((e.word[i] | w.word[i]) & (s.word[i] | n.word[i]));
    return a;
}
// What of `within` is connected with the seeds, which lie in it.
GO_INLINE GoBits go_flood(GoBits seeds, GoBits within, GoShape shape) {
    for (;;) {
        const GoBits more = go_without(go_and(go_near(seeds, shape), within, shape), seeds, shape);
        if (!go_any(more, shape)) return seeds;
        seeds = go_or(seeds, more, shape);
    }
}
// A random point of a set that is not empty.
GO_INLINE int go_draw(Rng *rng, GoBits a, GoShape shape) {
    int rank = rng_int(rng, go_count(a, shape));
    for (int i = 0; i < shape.words; i++) {
        uint64_t word = a.word[i];
        const int count = __builtin_popcountll(word);
        if (rank < count) {
            while (rank--) word &= word - 1;
            return i * 64 + __builtin_ctzll(word);
        }
        rank -= count;
    }
    return GO_PASS;
}

// The rules.

// Where a side may play. A point is legal if beside it there is an empty one, or a group of its own that has
// another liberty, or one of the other side that has not.
GO_INLINE GoBits go_legal(const Go *go, int side, GoShape shape) {
    GoBits open = {{0}};
    for (int i = 0; i < shape.words; i++)
        open.word[i] = go->empty.word[i] | (go->stones[side].word[i] & ~go->atari[side].word[i]) |
                       go->atari[!side].word[i];
    const GoBits legal = go_and(go_near(open, shape), go->empty, shape);
    return go->ko == GO_PASS ? legal : go_without(legal, go_single(go->ko, shape), shape);
}

// Sorts the groups of a side that hold the seeds, all on its stones, by their liberties. Groups that were one
// before have been sorted alike; so where a part has three, and was not marked, the whole stays unmarked.
GO_INLINE void go_sort(Go *go, int side, GoBits seeds, GoShape shape) {
    const GoBits marked = go_or(go->atari[side], go->two[side], shape);
    while (go_any(seeds, shape)) {
        GoBits group = go_lowest(seeds, shape);
        for (;;) {
            const GoBits near = go_near(group, shape);
            const GoBits more = go_without(go_and(near, go->stones[side], shape), group, shape);
            const int liberties = go_count(go_and(near, go->empty, shape), shape);
            if (liberties > 2 && !go_any(go_and(go_or(group, more, shape), marked, shape), shape)) break;
            if (!go_any(more, shape)) {
                go->atari[side] = go_without(go->atari[side], group, shape);
                go->two[side] = go_without(go->two[side], group, shape);
                if (liberties == 1) go->atari[side] = go_or(go->atari[side], group, shape);
                if (liberties == 2) go->two[side] = go_or(go->two[side], group, shape);
                break;
            }
            group = go_or(group, more, shape);
        }
        seeds = go_without(seeds, group, shape);
    }
}

// A legal move of a side.
GO_INLINE void go_play(Go *go, int side, int bit, GoShape shape) {
    const GoBits move = go_single(bit, shape), near = go_near(move, shape);
    const GoBits own_near = go_and(near, go->stones[side], shape);
    GoBits seeds = move;
    go->ko = GO_PASS;
    go->empty = go_without(go->empty, move, shape);
    go->stones[side] = go_or(go->stones[side], move, shape);
    GoBits captured = go_and(near, go->atari[!side], shape); // whose one liberty this was
    if (go_any(captured, shape)) {
        captured = go_flood(captured, go->atari[!side], shape);
        const int count = go_count(captured, shape);
        go->captured[side] += count;
        go->stones[!side] = go_without(go->stones[!side], captured, shape);
        go->atari[!side] = go_without(go->atari[!side], captured, shape);
        const GoBits liberties = go_and(near, go_or(go->empty, captured, shape), shape);
        if (count == 1 && !go_any(own_near, shape) && go_count(liberties, shape) == 1)
            go->ko = go_first(captured, shape);
        go->empty = go_or(go->empty, captured, shape);
        seeds = go_or(seeds, go_and(go_near(captured, shape), go->stones[side], shape), shape);
    }
    go_sort(go, side, seeds, shape);
    go_sort(go, !side, go_and(near, go->stones[!side], shape), shape);
}

// The area of each side: its stones, and the empty points from which only it can be reached.
GO_INLINE void go_area(const Go *go, int area[2], GoShape shape) {
    GoBits reached[2];
    for (int side = 0; side < 2; side++) {
        const GoBits seeds = go_and(go_near(go->stones[side], shape), go->empty, shape);
        reached[side] = go_flood(seeds, go->empty, shape);
    }
    for (int side = 0; side < 2; side++)
        area[side] = go_count(go->stones[side], shape) +
                     go_count(go_without(reached[side], reached[!side], shape), shape);
}

// By how many points the agent is ahead, komi included.
GO_INLINE float go_margin(const Go *go, const GoConfig *config, GoShape shape) {
    int area[2];
    go_area(go, area, shape);
    const float komi = go->black == GO_AGENT ? -config->komi : config->komi;
    return (float)(area[GO_AGENT] - area[GO_OPPONENT]) + komi;
}

// The opponent.

// A random one of the points, all legal and none a capture, after which the stone's group has at least two
// liberties, as is known of the safe points; else GO_PASS.
GO_INLINE int go_draw_safe(Go *go, GoBits points, GoBits safe, GoShape shape) {
    while (go_any(points, shape)) {
        const int bit = go_draw(&go->rng, points, shape);
        if (go_has(&safe, bit, shape)) return bit;
        const GoBits move = go_single(bit, shape);
        const GoBits own = go_or(go->stones[GO_OPPONENT], move, shape);
        const GoBits near = go_near(go_flood(move, own, shape), shape);
        if (go_count(go_without(go_and(near, go->empty, shape), move, shape), shape) > 1) return bit;
        points = go_without(points, move, shape);
    }
    return GO_PASS;
}

// What the opponent would play: a point or GO_PASS. The rules of thumb stand at the top of the file.
GO_INLINE int go_choose(Go *go, GoShape shape) {
    const GoBits legal = go_legal(go, GO_OPPONENT, shape);
    const GoBits own = go->stones[GO_OPPONENT], agent = go->stones[GO_AGENT];
    const GoBits captures = go_and(go_near(go->atari[GO_AGENT], shape), legal, shape);
    if (go_any(captures, shape)) return go_draw(&go->rng, captures, shape);

    GoBits open = go_without(own, go_or(go->atari[GO_OPPONENT], go->two[GO_OPPONENT], shape), shape);
    const GoBits safe = go_or(go_near(open, shape), go_near_two(go->empty, shape, 0), shape);
    int bit = GO_PASS;
    if (go_any(go->atari[GO_OPPONENT], shape)) {
        const GoBits escapes = go_and(go_near(go->atari[GO_OPPONENT], shape), legal, shape);
        bit = go_draw_safe(go, escapes, safe, shape);
        if (bit != GO_PASS) return bit;
    }
    const GoBits not_own = go_or(go->empty, agent, shape);
    const GoBits points = go_and(legal, go_near(not_own, shape), shape);
    if (go_any(go->two[GO_AGENT], shape)) {
        const GoBits threats = go_and(points, go_near(go->two[GO_AGENT], shape), shape);
        bit = go_draw_safe(go, threats, safe, shape);
        if (bit != GO_PASS) return bit;
    }
    const GoBits stones = go_or(own, agent, shape), board = go_or(stones, go->empty, shape);
    const GoBits busy = go_or(go_near_two(board, shape, 1), go_near(stones, shape), shape);
    bit = go_draw_safe(go, go_and(points, busy, shape), safe, shape);
    return bit != GO_PASS ? bit : go_draw_safe(go, go_without(points, busy, shape), safe, shape);
}

// The opponent's turn. Returns whether the game is over.
GO_INLINE int go_reply(Go *go, const GoConfig *config, GoShape shape) {
    int bit = go_choose(go, shape);
    if (go->passed && go_margin(go, config, shape) < 0) bit = GO_PASS;
    go->moves++;
    go->last_move = bit;
    if (bit == GO_PASS) {
        const int over = go->passed;
        go->passed = 1;
        go->ko = GO_PASS;
        return over;
    }
    go->passed = 0;
    go_play(go, GO_OPPONENT, bit, shape);
    return 0;
}

// An episode.

// Brings the observation up to date, by what differs from the stones, legal points and ko that it shows.
GO_INLINE void go_observe(const Go *go, const GoConfig *config, int8_t *observations, const GoBits stones[2],
                          GoBits legal, int ko, GoShape shape) {
    const int points = shape.size * shape.size, line = shape.size + 1;
    int8_t *scalars = observations + points, *flags = scalars + GO_SCALARS;
    for (int i = 0; i < shape.words; i++) {
        const uint64_t agent = go->stones[GO_AGENT].word[i], opponent = go->stones[GO_OPPONENT].word[i];
        uint64_t changed = (agent ^ stones[GO_AGENT].word[i]) | (opponent ^ stones[GO_OPPONENT].word[i]);
        for (; changed; changed &= changed - 1) {
            const int low = __builtin_ctzll(changed), bit = i * 64 + low;
            observations[bit - bit / line] = (int8_t)((int)(agent >> low & 1) - (int)(opponent >> low & 1));
        }
        changed = config->legal_moves ? go->legal.word[i] ^ legal.word[i] : 0;
        for (; changed; changed &= changed - 1) {
            const int low = __builtin_ctzll(changed), bit = i * 64 + low;
            flags[bit - bit / line] = (int8_t)(go->legal.word[i] >> low & 1);
        }
    }
    if (!config->legal_moves) {
        if (ko != GO_PASS) flags[ko - ko / line] = 0;
        if (go->ko != GO_PASS) flags[go->ko - go->ko / line] = 1;
    }
    const int left = config->move_limit * points - go->moves;
    scalars[0] = go->black == GO_AGENT ? 1 : -1;
    scalars[1] = (int8_t)go->passed;
    for (int i = 0; i < 4; i++) scalars[2 + i] = left < 32 >> i;
}

// An empty board, and its observation.
static inline void go_begin(Go *go, const GoConfig *config, int8_t *observations) {
    const int points = config->size * config->size;
    memset(&go->empty, 0, (size_t)((char *)&go->finished - (char *)&go->empty));
    for (int row = 0; row < config->size; row++) {
        const uint64_t line = (1ull << config->size) - 1;
        const int bit = row * (config->size + 1), low = bit % 64;
        go->empty.word[bit / 64] |= line << low;
        if (low + config->size > 64) go->empty.word[bit / 64 + 1] |= line >> (64 - low);
    }
    go->legal = go->empty;
    go->ko = go->last_move = GO_PASS;
    go->black = rng_int(&go->rng, 2);
    memset(observations, 0, (size_t)go_observation_bytes(config));
    if (config->legal_moves) memset(observations + points + GO_SCALARS, 1, (size_t)points + 1);
}

static inline void go_finish(Go *go, const GoConfig *config, Rows rows, float margin, int limited) {
    const float reward = margin > 0 ? 1.0f : margin < 0 ? -1.0f : 0.0f;
    *rows.rewards = reward;
    *rows.terminals = 1;
    go->wins += margin > 0;
    go->losses += margin < 0;
    memcpy(go->finished, go->stones, sizeof(go->finished));
    go->finished_black = go->black;
    go->log.score += (float)(margin > 0);
    go->log.perf += (float)(margin > 0);
    go->log.episode_return += reward;
    go->log.episode_length += (float)go->steps;
    go->log.margin += margin;
    go->log.illegal_moves += (float)go->illegal_moves;
    go->log.limited += (float)limited;
    go->log.n += 1;
    go_begin(go, config, rows.observations);
}

// The agent's move and the opponent's answer; after the end of a game, the next one and its first move, if
// that is the opponent's.
GO_INLINE void go_turn(Go *go, const GoConfig *config, Rows rows, GoShape shape) {
    const int points = shape.size * shape.size, action = (int)*(const int64_t *)rows.actions;
    const int bit = action == points ? GO_PASS : go_bit_of(action, shape),
              limit = config->move_limit * points;
    GoBits stones[2] = {go->stones[GO_AGENT], go->stones[GO_OPPONENT]}, legal = go->legal; // as observed
    int ko = go->ko, over = 0, answer;
    *rows.rewards = 0;
    *rows.terminals = 0;
    *rows.truncations = 0;
    go->steps++;
    go->moves++;
    if (bit != GO_PASS && go_has(&go->legal, bit, shape)) {
        go->passed = 0;
        go->last_move = bit;
        go_play(go, GO_AGENT, bit, shape);
    } else {
        go->illegal_moves += bit != GO_PASS;
        over = go->passed;
        go->passed = 1;
        go->last_move = go->ko = GO_PASS;
    }
    do {
        if (!over && go->moves < limit) over = go_reply(go, config, shape);
        answer = 0;
        if (over || go->moves >= limit) {
            go_finish(go, config, rows, go_margin(go, config, shape), !over);
            stones[GO_AGENT] = stones[GO_OPPONENT] = (GoBits){{0}};
            legal = go->legal;
            ko = GO_PASS;
            over = 0;
            answer = go->black == GO_OPPONENT;
        }
    } while (answer);
    go->legal = go_legal(go, GO_AGENT, shape);
    go_observe(go, config, rows.observations, stones, legal, ko, shape);
}

// For 7 x 7 points, up to 13 x 13, and up to 19 x 19.
static inline void go_step(Go *go, const GoConfig *config, Rows rows) {
    if (config->size == 7)
        go_turn(go, config, rows, (GoShape){7, 1});
    else if (config->size <= 13)
        go_turn(go, config, rows, (GoShape){config->size, 3});
    else
        go_turn(go, config, rows, (GoShape){config->size, GO_WORDS});
}

static inline void go_reset(Go *go, const GoConfig *config, Rows rows) {
    const GoShape shape = {config->size, GO_WORDS};
    const GoBits stones[2] = {0};
    go_begin(go, config, rows.observations);
    const GoBits legal = go->legal;
    if (go->black == GO_OPPONENT) go_reply(go, config, shape);
    go->legal = go_legal(go, GO_AGENT, shape);
    go_observe(go, config, rows.observations, stones, legal, GO_PASS, shape);
}

// Whether lines cross in a marked point here: some way from the edges, and in the middle.
static inline int go_star(int row, int column, int size) {
    const int from_edge = size < 13 ? 2 : 3, middle = size % 2 ? size / 2 : -1;
    const int corner_row = row == from_edge || row == size - 1 - from_edge;
    const int corner_column = column == from_edge || column == size - 1 - from_edge;
    if (row == middle && column == middle) return 1;
    if (size >= 9 && corner_row && corner_column) return 1;
    return size >= 15 && ((row == middle && corner_column) || (corner_row && column == middle));
}

static inline void go_draw_stone(Frame frame, float x, float y, float radius, int black) {
    const Color edge = black ? (Color){16, 17, 24} : (Color){196, 196, 204};
    const Color face = black ? (Color){34, 36, 48} : (Color){236, 236, 240};
    const Color light = black ? (Color){66, 70, 88} : (Color){252, 252, 254};
    draw_disc(frame, x, y, radius, edge);
    draw_disc(frame, x - 0.04f * radius, y - 0.06f * radius, 0.86f * radius, face);
    draw_disc(frame, x - 0.3f * radius, y - 0.35f * radius, 0.3f * radius, light);
}

// A board that fills a square of `side` units; a dot of the mark's colour is put on the last move.
static inline void go_draw_board(Frame frame, float left, float top, float side, const GoBits stones[2],
                                 int black, int last_move, Color mark, GoShape shape) {
    const Color wood = {219, 173, 104}, rim = {176, 130, 70}, ink = {126, 90, 46}, shadow = {160, 117, 62};
    const int size = shape.size;
    const float pitch = side / (float)size, x = left + pitch / 2, y = top + pitch / 2, width = pitch * 0.05f;
    const float far = (float)(size - 1) * pitch;
    draw_rectangle(frame, left - 0.05f, top - 0.05f, side + 0.1f, side + 0.1f, rim);
    draw_rectangle(frame, left, top, side, side, wood);
    for (int i = 0; i < size; i++) {
        const float at = (float)i * pitch - width / 2;
        draw_rectangle(frame, x, y + at, far, width, ink);
        draw_rectangle(frame, x + at, y, width, far, ink);
    }
    for (int i = 0; i < size * size; i++) {
        const float cx = x + (float)(i % size) * pitch, cy = y + (float)(i / size) * pitch;
        const int bit = go_bit_of(i, shape), is_agent = go_has(&stones[GO_AGENT], bit, shape);
        if (is_agent || go_has(&stones[GO_OPPONENT], bit, shape)) {
            draw_disc(frame, cx + 0.03f * pitch, cy + 0.05f * pitch, 0.46f * pitch, shadow);
            go_draw_stone(frame, cx, cy, 0.46f * pitch, is_agent == (black == GO_AGENT));
            if (bit == last_move) draw_disc(frame, cx, cy, 0.17f * pitch, mark);
        } else if (go_star(i / size, i % size, size)) {
            draw_disc(frame, cx, cy, 0.1f * pitch, ink);
        }
    }
}

// The board, and beside it of each side: its stones, marked in its colour, its area, the stones it took, and
// games won; and below how the last game ended. envs/go.py says where the board lies.
static inline void go_render(const Go *go, const GoConfig *config, Frame frame) {
    const GoShape shape = {config->size, GO_WORDS};
    const Color colors[2] = {COLOR_TEAL, COLOR_CORAL};
    const int wins[2] = {go->wins, go->losses};
    int area[2];
    go_area(go, area, shape);
    frame = draw_view(frame, 10, 7.5f, COLOR_NIGHT);
    const int by_agent = go->last_move != GO_PASS && go_has(&go->stones[GO_AGENT], go->last_move, shape);
    go_draw_board(frame, 0.25f, 0.25f, 7, go->stones, go->black, go->last_move,
                  colors[by_agent ? GO_AGENT : GO_OPPONENT], shape);
    for (int side = 0; side < 2; side++) {
        const float y = side == GO_AGENT ? 0.3125f : 2.4375f;
        draw_disc(frame, 7.95f, y + 0.4f, 0.375f, colors[side]);
        go_draw_stone(frame, 7.95f, y + 0.4f, 0.3f, go->black == side);
        draw_number(frame, 9.875f, y + 0.09375f, 0.125f, area[side], colors[side]);
        draw_disc(frame, 7.95f, y + 1.3f, 0.2f, COLOR_LINE);
        go_draw_stone(frame, 7.95f, y + 1.3f, 0.16f, go->black != side);
        draw_number(frame, 9.875f, y + 1.0625f, 0.09375f, go->captured[side], (Color){128, 136, 164});
        for (int i = 0; i < (wins[side] < 10 ? wins[side] : 10); i++)
            draw_disc(frame, 7.75f + 0.21f * (float)i, y + 1.8f, 0.07f, colors[side]);
    }
    if (go->wins + go->losses)
        go_draw_board(frame, 7.6f, 5.05f, 2.15f, go->finished, go->finished_black, GO_PASS, COLOR_TEAL,
                      shape);
}

#endif
