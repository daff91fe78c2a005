// Cartpole: push a cart left or right so that the pole on it stays up. Step for step Gymnasium's CartPole-v1:
// the dynamics of Barto, Sutton and Anderson 1983 without friction, with explicit Euler steps of 0.02
// seconds.
//
// Observation  4 floats: position of the cart in metres, its velocity, angle of the pole in radians (0 is
//              up), its angular velocity.
// Actions      0 push left, 1 push right, with 10 newtons.
// Reward       1 for every step, also the one with which the pole falls.
// Episode      begins with all four between -0.05 and 0.05, ends when the cart is more than 2.4 metres from
//              the middle or the pole more than 12 degrees from upright, and is cut after max_steps.
// Score        steps that the episode lasted; perf is their share of max_steps.
#ifndef CARTPOLE_H
#define CARTPOLE_H
#include "env.h"

// Doubles are for comparing with Gymnasium, which computes in them.
#ifdef CARTPOLE_DOUBLE
typedef double CartpoleNumber;
#else
typedef float CartpoleNumber;
#endif

#define CARTPOLE_GRAVITY 9.8
#define CARTPOLE_MASS 1.1        // of cart and pole
#define CARTPOLE_POLE_MASS 0.1   // of the pole
#define CARTPOLE_HALF_LENGTH 0.5 // from the joint to the pole's centre
#define CARTPOLE_FORCE 10.0
#define CARTPOLE_SECONDS 0.02 // a step
#define CARTPOLE_MAX_POSITION 2.4
#define CARTPOLE_MAX_ANGLE (12 * 3.14159265358979323846 / 180)

typedef struct CartpoleConfig {
    int max_steps;
} CartpoleConfig;

typedef struct CartpoleLog {
    float score;
    float perf;
    float episode_return;
    float episode_length;
    float n;
} CartpoleLog;

typedef struct Cartpole {
    Rng rng;
    CartpoleNumber position, velocity, angle, angular_velocity;
    int steps;
    CartpoleLog log;
} Cartpole;

static inline int cartpole_agents(const CartpoleConfig *config) {
    (void)config;
    return 1;
}
static inline int cartpole_observation_bytes(const CartpoleConfig *config) {
    (void)config;
    return 4 * (int)sizeof(float);
}

static inline void cartpole_init(Cartpole *cartpole, const CartpoleConfig *config, Rng rng) {
    (void)config;
    cartpole->rng = rng;
}

static inline void cartpole_observe(const Cartpole *cartpole, float *observations) {
    observations[0] = (float)cartpole->position;
    observations[1] = (float)cartpole->velocity;
    observations[2] = (float)cartpole->angle;
    observations[3] = (float)cartpole->angular_velocity;
}

static inline void cartpole_reset(Cartpole *cartpole, const CartpoleConfig *config, Rows rows) {
    (void)config;
    const uint64_t first = rng_next(&cartpole->rng), second = rng_next(&cartpole->rng);
    const CartpoleNumber unit = (CartpoleNumber)(0.05 * 0x1p-31); // of a signed 32-bit integer
    cartpole->position = (CartpoleNumber)(int32_t)first * unit;
    cartpole->velocity = (CartpoleNumber)(int32_t)(first >> 32) * unit;
    cartpole->angle = (CartpoleNumber)(int32_t)second * unit;
    cartpole->angular_velocity = (CartpoleNumber)(int32_t)(second >> 32) * unit;
    cartpole->steps = 0;
    cartpole_observe(cartpole, rows.observations);
}

// 0.02 seconds under a push. Sine and cosine are Taylor polynomials: up to 12 degrees, all that a pole can
// lean before a step, their error is below 1e-16.
static inline void cartpole_move(Cartpole *cartpole, CartpoleNumber force) {
    const CartpoleNumber seconds = (CartpoleNumber)CARTPOLE_SECONDS;
    const CartpoleNumber per_mass = (CartpoleNumber)(1 / CARTPOLE_MASS);
    const CartpoleNumber moment = (CartpoleNumber)(CARTPOLE_POLE_MASS * CARTPOLE_HALF_LENGTH / CARTPOLE_MASS);
    const CartpoleNumber a = cartpole->angle, aa = a * a, spin = cartpole->angular_velocity;

    CartpoleNumber sine = (CartpoleNumber)(-1.0 / 39916800), cosine = (CartpoleNumber)(-1.0 / 3628800);
    sine = (CartpoleNumber)(1.0 / 362880) + sine * aa, cosine = (CartpoleNumber)(1.0 / 40320) + cosine * aa;
    sine = (CartpoleNumber)(-1.0 / 5040) + sine * aa, cosine = (CartpoleNumber)(-1.0 / 720) + cosine * aa;
    sine = (CartpoleNumber)(1.0 / 120) + sine * aa, cosine = (CartpoleNumber)(1.0 / 24) + cosine * aa;
    sine = (CartpoleNumber)(-1.0 / 6) + sine * aa, cosine = (CartpoleNumber)(-1.0 / 2) + cosine * aa;
    sine = a + a * aa * sine, cosine = 1 + aa * cosine;

    // Pole and cart accelerate each other; `inertia` is what of the pole's the cart does not take up.
    const CartpoleNumber push = force * per_mass + moment * spin * spin * sine;
    const CartpoleNumber inertia =
        (CartpoleNumber)(CARTPOLE_HALF_LENGTH * 4 / 3) -
        (CartpoleNumber)(CARTPOLE_HALF_LENGTH * CARTPOLE_POLE_MASS / CARTPOLE_MASS) * cosine * cosine;
    const CartpoleNumber angular = ((CartpoleNumber)CARTPOLE_GRAVITY * sine - cosine * push) / inertia;
    const CartpoleNumber linear = push - moment * angular * cosine;

    cartpole->position += seconds * cartpole->velocity;
    cartpole->velocity += seconds * linear;
    cartpole->angle += seconds * spin;
    cartpole->angular_velocity += seconds * angular;
}

static inline void cartpole_step(Cartpole *cartpole, const CartpoleConfig *config, Rows rows) {
    const int64_t action = *(const int64_t *)rows.actions;
    const CartpoleNumber force = (CartpoleNumber)CARTPOLE_FORCE;
    const CartpoleNumber furthest = (CartpoleNumber)CARTPOLE_MAX_POSITION;
    const CartpoleNumber steepest = (CartpoleNumber)CARTPOLE_MAX_ANGLE;
    cartpole_move(cartpole, (CartpoleNumber)(2 * (int)action - 1) * force);
    cartpole->steps++;

    const int fallen = (cartpole->position > furthest) | (cartpole->position < -furthest) |
                       (cartpole->angle > steepest) | (cartpole->angle < -steepest);
    const int cut = !fallen & (cartpole->steps >= config->max_steps);
    *rows.rewards = 1;
    *rows.terminals = (uint8_t)fallen;
    *rows.truncations = (uint8_t)cut;
    if (!(fallen | cut)) {
        cartpole_observe(cartpole, rows.observations);
        return;
    }
    const float steps = (float)cartpole->steps;
    cartpole->log.score += steps;
    cartpole->log.perf += steps / (float)config->max_steps;
    cartpole->log.episode_return += steps;
    cartpole->log.episode_length += steps;
    cartpole->log.n += 1;
    if (cut) cartpole_observe(cartpole, rows.final_observations);
    cartpole_reset(cartpole, config, rows);
}

// Metres, but for the pole: drawn at twice its length, so that one sees it lean. Coral is where an episode
// ends: beyond both ends of the track, and past the two lines beside the pole.
static inline void cartpole_render(const Cartpole *cartpole, const CartpoleConfig *config, Frame frame) {
    (void)config;
    const float width = 6, height = 4.5f, middle = width / 2, rail = 3.6f;
    const float limit = (float)CARTPOLE_MAX_POSITION, length = 4 * (float)CARTPOLE_HALF_LENGTH;
    frame = draw_view(frame, width, height, COLOR_NIGHT);
    draw_rectangle(frame, 0, rail, width, height - rail, COLOR_PANEL);
    draw_rectangle(frame, 0, rail, middle - limit, 0.07f, COLOR_CORAL);
    draw_rectangle(frame, middle - limit, rail, 2 * limit, 0.07f, COLOR_LINE);
    draw_rectangle(frame, middle + limit, rail, middle - limit, 0.07f, COLOR_CORAL);

    const float x = middle + (float)cartpole->position, joint = rail - 0.38f;
    const float steepest = (float)CARTPOLE_MAX_ANGLE, angle = (float)cartpole->angle;
    for (int side = -1; side <= 1; side += 2) {
        const float across = (float)side * sinf(steepest), up = cosf(steepest);
        draw_line(frame, x + 1.8f * across, joint - 1.8f * up, x + 2.1f * across, joint - 2.1f * up, 0.05f,
                  COLOR_CORAL);
    }
    draw_line(frame, x, joint, x + length * sinf(angle), joint - length * cosf(angle), 0.14f, COLOR_GOLD);
    draw_rectangle(frame, x - 0.4f, joint - 0.02f, 0.8f, 0.3f, COLOR_TEAL);
    draw_disc(frame, x - 0.22f, rail - 0.09f, 0.09f, COLOR_WHITE);
    draw_disc(frame, x + 0.22f, rail - 0.09f, 0.09f, COLOR_WHITE);
    draw_disc(frame, x, joint, 0.08f, COLOR_NIGHT);
    int digits = 1;
    for (int rest = cartpole->steps; rest > 9; rest /= 10) digits++;
    draw_number(frame, middle + (float)(4 * digits - 1) * 0.046875f, 0.28125f, 0.09375f, cartpole->steps,
                COLOR_WHITE);
}

#endif
