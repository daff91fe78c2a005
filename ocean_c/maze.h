// Maze: find the way to the far end of a maze, a new one in every episode, seeing only what is near.
//
// Observation  signed bytes: the cells around the agent, 2 vision + 1 on a side, row by row: 1 a wall, -1 the
//              goal, 0 free; then the agent's row and its column, each as size numbers, 1 in its place.
// Actions      0 up, 1 down, 2 left, 3 right; a wall stops a step.
// Reward       1 on reaching the goal.
// Episode      ends on the goal, or is cut after max_steps.
// Score        1 if the goal was reached, else 0.
//
// A maze has rooms x rooms rooms on the cells of odd row and column, and one way between any two of them: size
// = 2 rooms + 1 cells on a side, walls included. The agent starts in a random room; the goal is the room with
// the longest way from there.
#ifndef MAZE_H
#define MAZE_H
#include "env.h"

#define MAZE_ROOMS 16 // at most, on a side
#define MAZE_SIDE (2 * MAZE_ROOMS + 1)

typedef struct MazeConfig {
    int rooms;
    int vision;
    int max_steps;
} MazeConfig;

typedef struct MazeLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
} MazeLog;

typedef struct Maze {
    Rng rng;
    int row, column; // of the agent
    int goal;        // cell: row * size + column
    int steps;
    uint8_t walls[MAZE_SIDE * MAZE_SIDE]; // by cell; size * size of them are used
    MazeLog log;
} Maze;

static inline int maze_size(const MazeConfig *config) { return 2 * config->rooms + 1; }

static inline int maze_agents(const MazeConfig *config) {
    (void)config;
    return 1;
}
static inline int maze_observation_bytes(const MazeConfig *config) {
    const int view = 2 * config->vision + 1;
    return (view * view + 2 * maze_size(config)) * (int)sizeof(int8_t);
}

static inline void maze_init(Maze *maze, const MazeConfig *config, Rng rng) {
    (void)config;
    maze->rng = rng;
}

static inline void maze_observe(const Maze *maze, const MazeConfig *config, int8_t *observations) {
    const int size = maze_size(config), vision = config->vision;
    for (int row = maze->row - vision; row <= maze->row + vision; row++)
        for (int column = maze->column - vision; column <= maze->column + vision; column++) {
            const int inside = row >= 0 && row < size && column >= 0 && column < size;
            const int cell = row * size + column;
            *observations++ = !inside || maze->walls[cell] ? 1 : cell == maze->goal ? -1 : 0;
        }
    memset(observations, 0, (size_t)(2 * size));
    observations[maze->row] = 1;
    observations[size + maze->column] = 1;
}

// Digs from room to room until all are open: from the newest room that has a closed neighbour on to a random
// one of them (recursive backtracking, with a stack). The room with the longest way from the first is the goal.
static inline void maze_dig(Maze *maze, const MazeConfig *config) {
    const int size = maze_size(config), rooms = config->rooms;
    const int steps[4] = {-size, size, -1, 1};
    int path[MAZE_ROOMS * MAZE_ROOMS], length = 1, longest = 0;
    memset(maze->walls, 1, sizeof maze->walls);
    maze->row = 2 * rng_int(&maze->rng, rooms) + 1;
    maze->column = 2 * rng_int(&maze->rng, rooms) + 1;
    path[0] = maze->row * size + maze->column;
    maze->walls[path[0]] = 0;
    while (length > 0) {
        const int cell = path[length - 1], row = cell / size, column = cell % size;
        if (length > longest) {
            longest = length;
            maze->goal = cell;
        }
        const int there[4] = {row > 1, row < size - 2, column > 1, column < size - 2};
        int closed[4], count = 0;
        for (int i = 0; i < 4; i++)
            if (there[i] && maze->walls[cell + 2 * steps[i]]) closed[count++] = steps[i];
        if (count == 0) {
            length--;
            continue;
        }
        const int step = closed[rng_int(&maze->rng, count)];
        maze->walls[cell + step] = maze->walls[cell + 2 * step] = 0;
        path[length++] = cell + 2 * step;
    }
}

static inline void maze_reset(Maze *maze, const MazeConfig *config, Rows rows) {
    maze->steps = 0;
    maze_dig(maze, config);
    maze_observe(maze, config, rows.observations);
}

static inline void maze_step(Maze *maze, const MazeConfig *config, Rows rows) {
    const int size = maze_size(config);
    const int64_t action = *(const int64_t *)rows.actions;
    const int row = maze->row + (action == 1) - (action == 0);
    const int column = maze->column + (action == 3) - (action == 2);
    if (!maze->walls[row * size + column]) {
        maze->row = row;
        maze->column = column;
    }
    maze->steps++;

    const int reached = maze->row * size + maze->column == maze->goal;
    const int cut = !reached && maze->steps >= config->max_steps;
    *rows.rewards = (float)reached;
    *rows.terminals = (uint8_t)reached;
    *rows.truncations = (uint8_t)cut;
    if (!reached && !cut) {
        maze_observe(maze, config, rows.observations);
        return;
    }
    maze->log.score += (float)reached;
    maze->log.perf += (float)reached;
    maze->log.episode_return += (float)reached;
    maze->log.episode_length += (float)maze->steps;
    maze->log.n += 1;
    if (cut) maze_observe(maze, config, rows.final_observations);
    maze_reset(maze, config, rows);
}

static inline void maze_render(const Maze *maze, const MazeConfig *config, Frame frame) {
    const int size = maze_size(config);
    frame = draw_view(frame, (float)size, (float)size, COLOR_PANEL);
    for (int cell = 0; cell < size * size; cell++)
        if (maze->walls[cell])
            draw_rectangle(frame, (float)(cell % size), (float)(cell / size), 1, 1, COLOR_LINE);
    const float goal_row = (float)(maze->goal / size), goal_column = (float)(maze->goal % size);
    draw_rectangle(frame, goal_column + 0.1f, goal_row + 0.1f, 0.8f, 0.8f, COLOR_GOLD);
    draw_disc(frame, (float)maze->column + 0.5f, (float)maze->row + 0.5f, 0.4f, COLOR_TEAL);
}

#endif
