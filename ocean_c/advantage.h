// Value targets and policy advantages of fixed-length segments, on the CPU. Equations and shapes stand beside
// the readable version, `advantages_reference` in cleanpuffer.py, which a test holds this one to.
#ifndef ADVANTAGE_H
#define ADVANTAGE_H

typedef struct AdvantageSettings {
    float gamma, gae_lambda, rho_clip, c_clip;
} AdvantageSettings;

// All arrays are [segments, horizon].
static void advantages(int segments, int horizon, const float *rewards, const float *values,
                       const float *bootstraps, const uint8_t *terminals, const uint8_t *truncations,
                       const float *ratios, AdvantageSettings settings, float *targets, float *advantages) {
    const float gamma = settings.gamma, decay = settings.gamma * settings.gae_lambda;
    for (int segment = 0; segment < segments; segment++) {
        const int64_t row = (int64_t)segment * horizon;
        const float *r = rewards + row, *v = values + row, *b = bootstraps + row, *ratio = ratios + row;
        const uint8_t *terminal = terminals + row, *truncated = truncations + row;
        float *target = targets + row, *advantage = advantages + row;
        float trace = 0; // v_{t+1} - V_{t+1}
        for (int t = horizon - 1; t >= 0; t--) {
            const int cut = truncated[t] | (t == horizon - 1);
            const float next_value = terminal[t] ? 0 : cut ? b[t] : v[t + 1];
            const float delta = r[t] + gamma * next_value - v[t];
            const float carried = terminal[t] | truncated[t] ? 0 : decay * trace;
            const float rho = ratio[t] < settings.rho_clip ? ratio[t] : settings.rho_clip;
            const float c = ratio[t] < settings.c_clip ? ratio[t] : settings.c_clip;
            advantage[t] = delta + carried;
            trace = rho * delta + c * carried;
            target[t] = v[t] + trace;
        }
    }
}

#endif
