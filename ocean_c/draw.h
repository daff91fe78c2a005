// Drawing into an RGB byte frame [height, width, 3], with no display. Shapes are in the game's own units and
// have smooth edges, so that one render function serves a terminal of 80 columns and a large picture alike:
//
//   frame = draw_view(frame, 160, 120, BLACK);        // the game is 160 x 120 units, fitted and centred
//   draw_rectangle(frame, x, y, width, height, WHITE);
#ifndef DRAW_H
#define DRAW_H
#include <math.h>
#include <stdint.h>

typedef struct Frame {
    uint8_t *pixels;
    int width, height;
    float scale, left, top; // pixel = unit * scale + (left, top)
} Frame;

typedef struct Color {
    uint8_t r, g, b;
} Color;

// One palette for all games.
#define COLOR_NIGHT ((Color){18, 20, 31})
#define COLOR_PANEL ((Color){32, 36, 54})
#define COLOR_LINE ((Color){64, 70, 98})
#define COLOR_WHITE ((Color){240, 242, 250})
#define COLOR_TEAL ((Color){64, 208, 184})
#define COLOR_CORAL ((Color){255, 110, 97})
#define COLOR_GOLD ((Color){255, 203, 87})
#define COLOR_SKY ((Color){92, 160, 255})
#define COLOR_LEAF ((Color){126, 204, 98})
#define COLOR_VIOLET ((Color){170, 134, 250})
#define COLOR_ORANGE ((Color){255, 156, 66})
#define COLOR_PINK ((Color){246, 124, 190})

static inline float draw_clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

static inline void draw_pixel(Frame frame, int x, int y, Color color, float alpha) {
    if (x < 0 || y < 0 || x >= frame.width || y >= frame.height) return;
    uint8_t *pixel = frame.pixels + ((int64_t)y * frame.width + x) * 3;
    pixel[0] = (uint8_t)((float)pixel[0] + ((float)color.r - (float)pixel[0]) * alpha + 0.5f);
    pixel[1] = (uint8_t)((float)pixel[1] + ((float)color.g - (float)pixel[1]) * alpha + 0.5f);
    pixel[2] = (uint8_t)((float)pixel[2] + ((float)color.b - (float)pixel[2]) * alpha + 0.5f);
}

// How much of the pixel [i, i + 1) lies in [from, to).
static inline float draw_cover(int i, float from, float to) {
    const float low = from > (float)i ? from : (float)i;
    const float high = to < (float)(i + 1) ? to : (float)(i + 1);
    return high > low ? high - low : 0;
}

static inline void draw_rectangle(Frame frame, float x, float y, float width, float height, Color color) {
    const float x0 = draw_clamp(frame.left + x * frame.scale, 0, (float)frame.width);
    const float x1 = draw_clamp(frame.left + (x + width) * frame.scale, 0, (float)frame.width);
    const float y0 = draw_clamp(frame.top + y * frame.scale, 0, (float)frame.height);
    const float y1 = draw_clamp(frame.top + (y + height) * frame.scale, 0, (float)frame.height);
    for (int j = (int)y0; (float)j < y1; j++)
        for (int i = (int)x0; (float)i < x1; i++)
            draw_pixel(frame, i, j, color, draw_cover(i, x0, x1) * draw_cover(j, y0, y1));
}

// A disc, its edge smoothed by 4 x 4 samples a pixel.
static inline void draw_disc(Frame frame, float x, float y, float radius, Color color) {
    const float cx = frame.left + x * frame.scale, cy = frame.top + y * frame.scale;
    const float r = draw_clamp(radius * frame.scale, 0, 1e4f);
    for (int j = (int)(cy - r - 1); j <= (int)(cy + r + 1); j++)
        for (int i = (int)(cx - r - 1); i <= (int)(cx + r + 1); i++) {
            int inside = 0;
            for (int sample = 0; sample < 16; sample++) {
                const float dx = (float)i + ((float)(sample % 4) + 0.5f) / 4 - cx;
                const float dy = (float)j + ((float)(sample / 4) + 0.5f) / 4 - cy;
                inside += dx * dx + dy * dy <= r * r;
            }
            if (inside) draw_pixel(frame, i, j, color, (float)inside / 16);
        }
}

// A line between two points with round ends, smooth over one pixel at its edge.
static inline void draw_line(Frame frame, float x0, float y0, float x1, float y1, float width, Color color) {
    x0 = frame.left + x0 * frame.scale, x1 = frame.left + x1 * frame.scale;
    y0 = frame.top + y0 * frame.scale, y1 = frame.top + y1 * frame.scale;
    const float half = draw_clamp(width * frame.scale / 2, 0.5f, 1e4f), dx = x1 - x0, dy = y1 - y0;
    const float square = dx * dx + dy * dy > 1e-6f ? dx * dx + dy * dy : 1e-6f;
    const float left = draw_clamp((x0 < x1 ? x0 : x1) - half - 1, 0, (float)frame.width);
    const float right = draw_clamp((x0 < x1 ? x1 : x0) + half + 1, 0, (float)frame.width);
    const float top = draw_clamp((y0 < y1 ? y0 : y1) - half - 1, 0, (float)frame.height);
    const float bottom = draw_clamp((y0 < y1 ? y1 : y0) + half + 1, 0, (float)frame.height);
    for (int j = (int)top; (float)j < bottom; j++)
        for (int i = (int)left; (float)i < right; i++) {
            const float x = (float)i + 0.5f - x0, y = (float)j + 0.5f - y0;
            const float along = draw_clamp((x * dx + y * dy) / square, 0, 1);
            const float away_x = x - along * dx, away_y = y - along * dy;
            const float inside = half + 0.5f - sqrtf(away_x * away_x + away_y * away_y);
            if (inside > 0) draw_pixel(frame, i, j, color, inside < 1 ? inside : 1);
        }
}

// Fits width x height units into the frame, centred, and paints them with the background.
static inline Frame draw_view(Frame frame, float width, float height, Color background) {
    const float across = (float)frame.width / width, down = (float)frame.height / height;
    frame.scale = across < down ? across : down;
    frame.left = ((float)frame.width - width * frame.scale) / 2;
    frame.top = ((float)frame.height - height * frame.scale) / 2;
    draw_rectangle(frame, 0, 0, width, height, background);
    return frame;
}

// A dot of a digit: its edges lie between pixels where it has some, so that none show between dots.
static inline void draw_dot(Frame frame, float x, float y, float width, float height, Color color) {
    float x0 = frame.left + x * frame.scale, x1 = frame.left + (x + width) * frame.scale;
    float y0 = frame.top + y * frame.scale, y1 = frame.top + (y + height) * frame.scale;
    if (height * frame.scale >= 1.5f) {
        x0 = roundf(x0), x1 = roundf(x1);
        y0 = roundf(y0), y1 = roundf(y1);
    }
    frame.left = frame.top = 0;
    frame.scale = 1;
    draw_rectangle(frame, x0, y0, x1 - x0, y1 - y0, color);
}

// An integer in digits of 3 x 5 dots of `dot` units, right-aligned at x: a score.
static inline void draw_number(Frame frame, float x, float y, float dot, int number, Color color) {
    static const uint16_t digits[10] = {// five rows of three bits, the top row highest
                                        075557, 026227, 071747, 071717, 055711,
                                        074717, 074757, 071111, 075757, 075717};
    unsigned rest = number < 0 ? 0u - (unsigned)number : (unsigned)number;
    do {
        x -= 3 * dot;
        for (int bit = 0; bit < 15; bit++)
            if (digits[rest % 10] >> (14 - bit) & 1)
                draw_dot(frame, x + (float)(bit % 3) * dot, y + (float)(bit / 3) * dot, dot, dot, color);
        x -= dot;
        rest /= 10;
    } while (rest);
    if (number < 0) draw_dot(frame, x - 2 * dot, y + 2 * dot, 2 * dot, dot, color);
}

#endif
