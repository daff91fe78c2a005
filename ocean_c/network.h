// An LSTM over whole segments and its gradients, and the network round it, on the CPU. Equations and shapes stand
// beside the readable versions, `lstm_reference` in kernels/cpu.py and `Policy` and `Trainer.gradients` in
// cleanpuffer.py, which tests hold these to.
//
// Weights are [4 hidden, inputs + hidden], as torch's two matrices side by side, so that one product takes in
// what a step sees: z_t = (x_t, h_{t-1}). A tile of a product, ROWS rows of four vectors, stays in registers;
// with the weights in the right order these four are the four gates of WIDE units, and the cell is finished there.
//
// An operand is 32 bits of a product's factors: a float or, where the processor multiplies them, two bfloat16
// that are next to each other along the summed dimension. Sums are floats in any case.
#ifndef NETWORK_H
#define NETWORK_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include "cores.h"

// Of tiles: as many rows as leave registers for a row of the other factor, and how many where fewer are left. Of blocks:
// the most segments whose activations stay in a near cache.
#if defined(__AVX512F__)
enum { WIDE = 16, ROWS = 6, FEW = 4, BLOCK = 6 };
#elif defined(__AVX__)
enum { WIDE = 8, ROWS = 2, FEW = 1, BLOCK = 8 };
#else
enum { WIDE = 4, ROWS = 4, FEW = 1, BLOCK = 8 };
#endif
_Static_assert(BLOCK % 2 == 0 && (FEW == 1 || (BLOCK >= ROWS && ROWS == FEW + 2)), "of block_of");
enum { DEPTH = 192 }; // of a block of a product: its other factor stays in a near cache

typedef float Vector __attribute__((vector_size(WIDE * sizeof(float)), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(WIDE * sizeof(float)), aligned(4), may_alias));
typedef float Operand;
typedef int32_t Bits __attribute__((may_alias)); // of an operand, and of one of a pair
typedef uint16_t Half __attribute__((may_alias));

typedef struct LstmSizes {
    int rows, horizon, inputs, hidden; // inputs and hidden are multiples of 16
    int bfloat16;                      // two factors to an operand
} LstmSizes;

#define INLINE static inline __attribute__((always_inline))

INLINE Vector *at(const float *x) { return (Vector *)x; }

static int lstm_has_bfloat16(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

INLINE Vector multiply_add(int bfloat16, Vector sum, Vector a, Vector b) {
#ifdef __AVX512BF16__
    if (bfloat16) return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    (void)bfloat16;
#endif
    return sum + a * b;
}

// Numbers [count] to operands [count] or, in pairs, [count / 2].
static void to_operands(int bfloat16, int count, const float *from, Operand *to) {
#ifdef __AVX512BF16__
    if (bfloat16) {
        for (int i = 0; i < count; i += 16)
            _mm256_storeu_si256((__m256i *)(to + i / 2), (__m256i)_mm512_cvtneps_pbh((__m512)*at(from + i)));
        return;
    }
#else
    (void)bfloat16;
#endif
    memcpy(to, from, count * sizeof *to);
}

// Rows [rows, columns] of operands, summed over columns, to operands that are summed over rows: [rows / 2, columns].
static void pair_rows(int64_t rows, int columns, const Operand *from, Operand *to) {
    const Half *numbers = (const Half *)from;
    Bits *pairs = (Bits *)to;
    for (int64_t row = 0; row < rows; row += 2, numbers += 2 * columns)
        for (int i = 0; i < columns; i++)
            *pairs++ = numbers[i] | (row + 1 < rows ? (uint32_t)numbers[columns + i] << 16 : 0);
}

// sums [rows, vectors * WIDE] += a [rows, depth] b [depth, vectors * WIDE], in operands. a_row, a_depth, b_depth
// are steps to the next one.
INLINE void product_tile(int bfloat16, int rows, int vectors, int depth, const Operand *a, int64_t a_row,
                         int64_t a_depth, const Operand *b, int64_t b_depth, Vector sums[ROWS][4]) {
    for (int k = 0; k < depth; k++, a += a_depth, b += b_depth) {
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            const Vector factor = (Vector)((Integers){0} + *(const Bits *)(a + row * a_row));
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sums[row][v] = multiply_add(bfloat16, sums[row][v], factor, *at(b + v * WIDE));
        }
    }
}

INLINE void tile(int bfloat16, int rows, int vectors, int depth, const Operand *a, int64_t a_row,
                 int64_t a_depth, const Operand *b, int64_t b_depth, const float *first, int64_t first_row,
                 float *c, int64_t c_row) {
    Vector sums[ROWS][4];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            sums[row][v] = first ? *at(first + row * first_row + v * WIDE) : (Vector){0};
    product_tile(bfloat16, rows, vectors, depth, a, a_row, a_depth, b, b_depth, sums);
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++) *at(c + row * c_row + v * WIDE) = sums[row][v];
}

INLINE int tile_rows(int left) {
    if (FEW > 1 && left / FEW == 2 && left % FEW < 2) return FEW; // twice, and not single rows after ROWS
    return left >= ROWS ? ROWS : left >= FEW ? FEW : 1;
}

// The same for the three numbers of rows, each compiled for itself.
INLINE void tiles(int bfloat16, int rows, int vectors, int depth, const Operand *a, int64_t a_row,
                  int64_t a_depth, const Operand *b, int64_t b_depth, const float *first, int64_t first_row,
                  float *c, int64_t c_row) {
    if (rows == ROWS)
        tile(bfloat16, ROWS, vectors, depth, a, a_row, a_depth, b, b_depth, first, first_row, c, c_row);
    else if (rows == FEW)
        tile(bfloat16, FEW, vectors, depth, a, a_row, a_depth, b, b_depth, first, first_row, c, c_row);
    else
        tile(bfloat16, 1, vectors, depth, a, a_row, a_depth, b, b_depth, first, first_row, c, c_row);
}

// c [rows, columns] = first + a [rows, depth] b [depth, columns]; columns are a multiple of WIDE. first is [rows, columns],
// with a step of 0 one row for all, or null for zeros.
INLINE void product(int bfloat16, int rows, int columns, int64_t depth, const Operand *a, int64_t a_row,
                    int64_t a_depth, const Operand *b, int64_t b_depth, const float *first, int64_t first_row,
                    float *c, int64_t c_row) {
    for (int64_t from = 0; from < depth; from += DEPTH, a += DEPTH * a_depth, b += DEPTH * b_depth) {
        const int deep = depth - from < DEPTH ? depth - from : DEPTH;
        if (from) first = c, first_row = c_row;
        for (int column = 0, vectors; column < columns; column += vectors * WIDE) {
            vectors = columns - column >= 4 * WIDE ? 4 : columns - column >= 2 * WIDE ? 2 : 1;
            for (int row = 0, tall; row < rows; row += tall) {
                tall = tile_rows(rows - row);
                const Operand *a_tile = a + row * a_row, *b_tile = b + column;
                const float *first_tile = first ? first + row * first_row + column : NULL;
                float *c_tile = c + row * c_row + column;
                if (vectors == 4)
                    tiles(bfloat16, tall, 4, deep, a_tile, a_row, a_depth, b_tile, b_depth, first_tile,
                          first_row, c_tile, c_row);
                else if (vectors == 2)
                    tiles(bfloat16, tall, 2, deep, a_tile, a_row, a_depth, b_tile, b_depth, first_tile,
                          first_row, c_tile, c_row);
                else
                    tiles(bfloat16, tall, 1, deep, a_tile, a_row, a_depth, b_tile, b_depth, first_tile,
                          first_row, c_tile, c_row);
            }
        }
    }
}

// c += a b
INLINE void add_product(int bfloat16, int rows, int columns, int64_t depth, const Operand *a, int64_t a_row,
                        int64_t a_depth, const Operand *b, int64_t b_depth, float *c, int64_t c_row) {
    product(bfloat16, rows, columns, depth, a, a_row, a_depth, b, b_depth, c, c_row, c, c_row);
}

INLINE Vector choose(Integers which, Vector yes, Vector no) {
    return (Vector)((which & (Integers)yes) | (~which & (Integers)no));
}

// 2^x: 2^floor(x) times a polynomial for the rest, to 2e-7 of it.
INLINE Vector power_of_two(Vector x) {
#ifdef __AVX512DQ__
    const Vector r = (Vector)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    const Vector most = (Vector){0} + 126;
    x = choose(x > most, most, choose(x < -most, -most, x));
    const Vector n = x - 0.5f + 12582912.0f - 12582912.0f, r = x - n; // 0 to 1
#endif
    Vector p = 1.8793187e-3f * r + 8.9909951e-3f;
    p = p * r + 5.5818676e-2f;
    p = p * r + 2.4015927e-1f;
    p = p * r + 6.9315174e-1f;
    p = p * r + 1;
#ifdef __AVX512DQ__
    return (Vector)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return p * (Vector)((__builtin_convertvector(n, Integers) + 127) << 23);
#endif
}

#define LOG2_E 1.44269504f

INLINE Vector exponential(Vector x) { return power_of_two(x * LOG2_E); }

INLINE Vector sigmoid(Vector x) { return 1 / (1 + power_of_two(x * -LOG2_E)); }

INLINE Vector hyperbolic_tangent(Vector x) { return 2 / (1 + power_of_two(x * (-2 * LOG2_E))) - 1; }

// From torch's weights w_ih [4 hidden, inputs] and w_hh [4 hidden, hidden], whose biases are added, those for lstm_forward:
// packed [hidden / WIDE, 1 + (inputs + hidden) operands, 4 gates, WIDE], where the first row is the bias; and those for
// lstm_backward: weights [4 hidden, inputs + hidden], as operands that are summed over rows.
static void lstm_arrange(const LstmSizes *sizes, const float *w_ih, const float *w_hh, const float *b_ih,
                         const float *b_hh, float *packed, Operand *weights) {
    const int inputs = sizes->inputs, hidden = sizes->hidden, wide = inputs + hidden;
    const int depth = wide / (1 + sizes->bfloat16), rows = 4 * hidden;
    Operand *operands = sizes->bfloat16 ? malloc((int64_t)rows * depth * sizeof *operands) : weights;
    for (int64_t row = 0; row < rows; row++) {
        Operand *to = operands + row * depth;
        to_operands(sizes->bfloat16, inputs, w_ih + row * inputs, to);
        to_operands(sizes->bfloat16, hidden, w_hh + row * hidden, to + inputs / (1 + sizes->bfloat16));
    }
    for (int unit = 0; unit < hidden; unit += WIDE)
        for (int k = -1; k < depth; k++)
            for (int gate = 0; gate < 4; gate++)
                for (int j = 0; j < WIDE; j++, packed++) {
                    const int row = gate * hidden + unit + j;
                    if (k < 0)
                        *packed = b_ih[row] + b_hh[row];
                    else
                        memcpy(packed, operands + (int64_t)row * depth + k, sizeof *packed);
                }
    if (!sizes->bfloat16) return;
    pair_rows(rows, wide, operands, weights);
    free(operands);
}

// Of WIDE units of some rows, from where they begin: gates, which may be null, and state, from sums. By itself, so that its
// constants take no registers of a product's.
static __attribute__((noinline)) void finish_cells(int rows, int hidden, Vector sums[][4],
                                                   const float *c_last, float *gates, float *c, float *h) {
    for (int row = 0; row < rows; row++) {
        const Vector i = sigmoid(sums[row][0]), f = sigmoid(sums[row][1]), o = sigmoid(sums[row][3]);
        const Vector g = hyperbolic_tangent(sums[row][2]), c_now = f * *at(c_last + row * hidden) + i * g;
        *at(c + row * hidden) = c_now;
        *at(h + row * hidden) = o * hyperbolic_tangent(c_now);
        if (!gates) continue;
        float *gate = gates + 4 * row * hidden;
        *at(gate) = i, *at(gate + hidden) = f, *at(gate + 2 * hidden) = g, *at(gate + 3 * hidden) = o;
    }
}

INLINE void cell_tile(int bfloat16, int rows, int hidden, int depth, const Operand *z, const float *packed,
                      const float *c_last, float *gates, float *c, float *h) {
    Vector sums[ROWS][4];
    for (int row = 0; row < rows; row++)
        for (int gate = 0; gate < 4; gate++) sums[row][gate] = *at(packed + gate * WIDE);
    product_tile(bfloat16, rows, 4, depth, z, depth, 1, packed + 4 * WIDE, 4 * WIDE, sums);
    finish_cells(rows, hidden, sums, c_last, gates, c, h);
}

INLINE void cells(int bfloat16, const LstmSizes *sizes, const float *x, const float *h_last,
                  const float *c_last, const float *packed, Operand *z, Operand *scratch, float *gates,
                  float *c, float *h) {
    const int rows = sizes->rows, inputs = sizes->inputs, hidden = sizes->hidden;
    const int depth = (inputs + hidden) / (1 + bfloat16);
    Operand *kept = z;
    if (bfloat16) z = scratch;
    for (int64_t row = 0; row < rows; row++) {
        to_operands(bfloat16, inputs, x + row * inputs, z + row * depth);
        to_operands(bfloat16, hidden, h_last + row * hidden, z + row * depth + inputs / (1 + bfloat16));
    }
    if (bfloat16 && kept) pair_rows(rows, inputs + hidden, z, kept);
    for (int unit = 0; unit < hidden; unit += WIDE, packed += 4 * WIDE * (1 + depth))
        for (int row = 0, tall; row < rows; row += tall) {
            const int64_t at_row = (int64_t)row * hidden + unit;
            float *gate = gates ? gates + 4 * at_row - 3 * unit : NULL;
            tall = tile_rows(rows - row);
            if (tall == ROWS)
                cell_tile(bfloat16, ROWS, hidden, depth, z + row * depth, packed, c_last + at_row, gate,
                          c + at_row, h + at_row);
            else if (tall == FEW)
                cell_tile(bfloat16, FEW, hidden, depth, z + row * depth, packed, c_last + at_row, gate,
                          c + at_row, h + at_row);
            else
                cell_tile(bfloat16, 1, hidden, depth, z + row * depth, packed, c_last + at_row, gate,
                          c + at_row, h + at_row);
        }
}

// One step: x [rows, inputs]; h_last, c_last, h, c [rows, hidden]. z [rows, inputs + hidden], in operands that are summed
// over rows, and gates [rows, 4, hidden] are for the gradients. gates may be null and with bfloat16, where scratch
// [rows, inputs + hidden] is used, z too.
static void lstm_step(const LstmSizes *sizes, const float *x, const float *h_last, const float *c_last,
                      const float *packed, Operand *z, Operand *scratch, float *gates, float *c, float *h) {
    if (sizes->bfloat16)
        cells(1, sizes, x, h_last, c_last, packed, z, scratch, gates, c, h);
    else
        cells(0, sizes, x, h_last, c_last, packed, z, scratch, gates, c, h);
}

// Operands that `rows` rows of as many numbers take, summed over rows.
INLINE int64_t paired(const LstmSizes *sizes) {
    return sizes->bfloat16 ? (sizes->rows + 1) / 2 : sizes->rows;
}

// Numbers of the gates of a step, of an even number of rows where pairs are to take their place.
INLINE int64_t gates_step(const LstmSizes *sizes) {
    return 4 * paired(sizes) * (1 + sizes->bfloat16) * sizes->hidden;
}

// All steps: the same arrays but weights and scratch with a dimension for the steps before the others, gates of gates_step
// each; h_first and c_first [rows, hidden].
static void lstm_forward(const LstmSizes *sizes, const float *x, const float *h_first, const float *c_first,
                         const float *packed, Operand *z, Operand *scratch, float *gates, float *c,
                         float *h) {
    const int64_t step = (int64_t)sizes->rows * sizes->hidden, x_step = (int64_t)sizes->rows * sizes->inputs;
    const int64_t z_step = paired(sizes) * (sizes->inputs + sizes->hidden);
    for (int t = 0; t < sizes->horizon; t++) {
        const float *h_last = t ? h + (t - 1) * step : h_first, *c_last = t ? c + (t - 1) * step : c_first;
        lstm_step(sizes, x + t * x_step, h_last, c_last, packed, z ? z + t * z_step : NULL, scratch,
                  gates ? gates + t * gates_step(sizes) : NULL, c + t * step, h + t * step);
    }
}

// Numbers of two rows to their operands, summed over columns, and to those that are summed over rows.
INLINE void store_pair(Vector one, Vector two, Operand *to_one, Operand *to_two, Operand *both) {
#ifdef __AVX512BF16__
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)two, (__m512)one);
    const __m512i places =
        (__m512i)((Integers){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 65537 + (16 << 16));
    _mm256_storeu_si256((__m256i *)to_one, _mm512_castsi512_si256(halves));
    if (to_two) _mm256_storeu_si256((__m256i *)to_two, _mm512_extracti64x4_epi64(halves, 1));
    _mm512_storeu_si512(both, _mm512_permutexvar_epi16(places, halves));
#else
    (void)one, (void)two, (void)to_one, (void)to_two, (void)both;
#endif
}

INLINE void backward_step(int bfloat16, const LstmSizes *sizes, const float *dh, const float *later,
                          float *gates, const float *c_last, const float *c, const Operand *weights,
                          Operand *scratch, float *dc, float *dz, float *dbias) {
    const int rows = sizes->rows, hidden = sizes->hidden, wide = sizes->inputs + hidden;
    const int pack = 1 + bfloat16, depth = 4 * hidden / pack;
    Operand *across = bfloat16 ? scratch : gates;
    for (int64_t row = 0; row < rows; row += pack)
        for (int j = 0; j < hidden; j += WIDE) {
            Vector change[2][4] = {0};
            for (int64_t k = 0; k < pack && row + k < rows; k++) {
                const int64_t unit = (row + k) * hidden + j;
                const float *gate = gates + 4 * (row + k) * hidden + j;
                const Vector i = *at(gate), f = *at(gate + hidden), g = *at(gate + 2 * hidden);
                const Vector o = *at(gate + 3 * hidden), tanh_c = hyperbolic_tangent(*at(c + unit));
                Vector d = *at(dh + unit);
                if (later) d += *at(later + (row + k) * wide + sizes->inputs + j);
                const Vector dcell = *at(dc + unit) + d * o * (1 - tanh_c * tanh_c);
                *at(dc + unit) = dcell * f;
                change[k][0] = dcell * g * i * (1 - i);
                change[k][1] = dcell * *at(c_last + unit) * f * (1 - f);
                change[k][2] = dcell * i * (1 - g * g);
                change[k][3] = d * tanh_c * o * (1 - o);
            }
            for (int kind = 0; kind < 4; kind++) {
                const int64_t to = kind * hidden + j;
                *at(dbias + to) += change[0][kind] + change[1][kind];
                if (bfloat16)
                    store_pair(change[0][kind], change[1][kind], across + row * depth + to / 2,
                               row + 1 < rows ? across + (row + 1) * depth + to / 2 : NULL,
                               gates + row * 4 * hidden + to);
                else
                    *at(gates + row * 4 * hidden + to) = change[0][kind];
            }
        }
    product(bfloat16, rows, wide, depth, across, depth, 1, weights, wide, NULL, 0, dz, wide);
}

// Back over one step: from the gradient of its h, dh [rows, hidden], to dz [rows, inputs + hidden], of x and the last h. later
// is dz of the step after it, which may be the same memory, or null. dc [rows, hidden] goes from the gradient of c to that of
// the last one; dbias [4 hidden] is added to. The gates' own gradients take their place, as operands that are summed over
// rows, with bfloat16 in every other row; so are the weights. scratch [rows, 4 hidden] is for bfloat16.
static void lstm_backward_step(const LstmSizes *sizes, const float *dh, const float *later, float *gates,
                               const float *c_last, const float *c, const Operand *weights, Operand *scratch,
                               float *dc, float *dz, float *dbias) {
    if (sizes->bfloat16)
        backward_step(1, sizes, dh, later, gates, c_last, c, weights, scratch, dc, dz, dbias);
    else
        backward_step(0, sizes, dh, later, gates, c_last, c, weights, scratch, dc, dz, dbias);
}

// After all steps: adds the gradient of the weights [4 hidden, inputs + hidden].
static void lstm_backward_weights(const LstmSizes *sizes, const Operand *dgates, const Operand *z,
                                  float *dweights) {
    const int rows = 4 * sizes->hidden, wide = sizes->inputs + sizes->hidden;
    const int64_t depth = paired(sizes) * sizes->horizon;
    if (sizes->bfloat16)
        add_product(1, rows, wide, depth, dgates, 1, 2 * rows, z, wide, dweights, wide);
    else
        add_product(0, rows, wide, depth, dgates, 1, rows, z, wide, dweights, wide);
}

// All steps: the same arrays but weights, scratch, dc and dbias with a dimension for the steps before the others, gates of
// gates_step each.
static void lstm_backward(const LstmSizes *sizes, const float *c_first, const Operand *weights,
                          const Operand *z, const float *c, const float *dh, float *gates, Operand *scratch,
                          float *dc, float *dz, float *dweights, float *dbias) {
    const int64_t step = (int64_t)sizes->rows * sizes->hidden, last = sizes->horizon - 1;
    const int64_t dz_step = (int64_t)sizes->rows * (sizes->inputs + sizes->hidden);
    for (int64_t t = last; t >= 0; t--)
        lstm_backward_step(sizes, dh + t * step, t < last ? dz + (t + 1) * dz_step : NULL,
                           gates + t * gates_step(sizes), t ? c + (t - 1) * step : c_first, c + t * step,
                           weights, scratch, dc, dz + t * dz_step, dbias);
    lstm_backward_weights(sizes, gates, z, dweights);
}

INLINE float total(Vector x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0;
    for (int i = 0; i < WIDE; i++) sum += x[i];
    return sum;
#endif
}

// out [rows, 4] = bias [4] + in [rows, depth] weights [4, depth], by dot products.
INLINE void dots(int rows, int depth, const float *in, const float *weights, const float *bias, float *out,
                 int64_t out_row) {
    Vector sums[2][4] = {0};
    for (int k = 0; k < depth; k += WIDE)
        for (int j = 0; j < 4; j++)
            for (int row = 0; row < rows; row++)
                sums[row][j] += *at(in + row * depth + k) * *at(weights + j * depth + k);
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < 4; j++) out[row * out_row + j] = bias[j] + total(sums[row][j]);
}

// A policy: a linear layer with relu, an LSTM, and a linear layer to `columns` heads, a multiple of 16: a logit for each
// action, the value, and nothing. encoder [1 + numbers, inputs] and head [1 + hidden, columns] have the bias first,
// head_transposed [columns, hidden] has none; packed and weights are as lstm_forward and lstm_backward take them. Where an
// observation has a 0 among its `masks` numbers from `mask` on, the logit of that index is -1e9. Observations are multiplied
// by `scale`, and what goes into the heads by `head_factor`.
typedef struct Network {
    int numbers, inputs, hidden, actions, columns, mask, masks, bfloat16;
    float scale, head_factor;
    float *encoder, *packed, *weights, *head, *head_transposed;
} Network;

// A policy's parameters as torch has them, in this order.
typedef struct Parameters {
    float *encoder, *encoder_bias, *w_ih, *w_hh, *b_ih, *b_hh;
    float *actor, *actor_bias, *critic, *critic_bias;
} Parameters;

// Fills what a Network points to.
static void network_arrange(const Network *net, const Parameters *from) {
    const int inputs = net->inputs, hidden = net->hidden, actions = net->actions, columns = net->columns;
    const LstmSizes sizes = {0, 0, inputs, hidden, net->bfloat16};
    lstm_arrange(&sizes, from->w_ih, from->w_hh, from->b_ih, from->b_hh, net->packed, net->weights);
    memcpy(net->encoder, from->encoder_bias, inputs * sizeof *net->encoder);
    for (int k = 0; k < net->numbers; k++)
        for (int64_t i = 0; i < inputs; i++)
            net->encoder[(k + 1) * inputs + i] = net->scale * from->encoder[i * net->numbers + k];
    for (int64_t j = 0; j < columns; j++)
        for (int i = -1; i < hidden; i++) {
            const float *row = j < actions ? from->actor + j * hidden : from->critic;
            const float *bias = j < actions ? from->actor_bias + j : from->critic_bias;
            const float weight = j > actions ? 0 : i < 0 ? *bias : net->head_factor * row[i];
            net->head[(i + 1) * columns + j] = weight;
            if (i >= 0) net->head_transposed[j * hidden + i] = weight;
        }
}

// Numbers of all parameters.
static int64_t network_size(const Network *net) {
    const int64_t inputs = net->inputs, hidden = net->hidden, heads = net->actions + 1;
    return inputs * (net->numbers + 1) + 4 * hidden * (inputs + hidden + 2) + heads * (hidden + 1);
}

// Those in one array.
static Parameters parameters_in(const Network *net, float *all) {
    const int64_t inputs = net->inputs, hidden = net->hidden, actions = net->actions,
                  square = 4 * hidden * hidden;
    Parameters of = {.encoder = all, .encoder_bias = all + inputs * net->numbers};
    of.w_ih = of.encoder_bias + inputs, of.w_hh = of.w_ih + 4 * hidden * inputs, of.b_ih = of.w_hh + square;
    of.b_hh = of.b_ih + 4 * hidden, of.actor = of.b_hh + 4 * hidden,
    of.actor_bias = of.actor + actions * hidden;
    of.critic = of.actor_bias + actions, of.critic_bias = of.critic + hidden;
    return of;
}

// Room for float arrays, taken one after the other.
INLINE float *take(float **room, int64_t count) {
    float *taken = *room;
    *room += (count + 15) / 16 * 16;
    return taken;
}

// Heads [rows, columns] from h [rows, hidden]. Where few are used these are dot products, which take less time.
static void read_heads(const Network *net, int rows, const float *h, float *heads, int64_t heads_row) {
    const int hidden = net->hidden;
    if (net->actions >= 8) {
        product(0, rows, net->columns, hidden, h, hidden, 1, net->head + net->columns, net->columns,
                net->head, 0, heads, heads_row);
        return;
    }
    for (int64_t row = 0; row < rows; row++) // no number is left undefined: powers are taken of all
        for (int j = 0; j < net->columns; j += WIDE) *at(heads + row * heads_row + j) = (Vector){0};
    for (int row = 0; row < rows; row += 2, h += 2 * hidden, heads += 2 * heads_row)
        for (int j = 0; j <= net->actions; j += 4)
            if (row + 1 < rows)
                dots(2, hidden, h, net->head_transposed + j * hidden, net->head + j, heads + j, heads_row);
            else
                dots(1, hidden, h, net->head_transposed + j * hidden, net->head + j, heads + j, heads_row);
}

// From observations [horizon, rows, numbers] and a state [rows, hidden] to heads [rows, horizon, columns]; x [horizon, rows,
// inputs] is the LSTM's input, the rest as for lstm_forward.
static void network_forward(const Network *net, const LstmSizes *sizes, const float *observations,
                            const float *h_first, const float *c_first, float *x, Operand *z,
                            Operand *scratch, float *gates, float *c, float *h, float *heads) {
    const int rows = sizes->rows, horizon = sizes->horizon, numbers = net->numbers, columns = net->columns;
    const int64_t step = (int64_t)rows * net->hidden, x_step = (int64_t)rows * net->inputs;
    const int64_t z_step = paired(sizes) * (net->inputs + net->hidden);
    for (int t = 0; t < horizon; t++, x += x_step, observations += rows * numbers) {
        const float *h_last = t ? h + (t - 1) * step : h_first, *c_last = t ? c + (t - 1) * step : c_first;
        product(0, rows, net->inputs, numbers, observations, numbers, 1, net->encoder + net->inputs,
                net->inputs, net->encoder, 0, x, net->inputs);
        for (int64_t i = 0; i < x_step; i++) x[i] = x[i] < 0 ? 0 : x[i]; // what is not a number stays so
        lstm_step(sizes, x, h_last, c_last, net->packed, z ? z + t * z_step : NULL, scratch,
                  gates ? gates + t * gates_step(sizes) : NULL, c + t * step, h + t * step);
        read_heads(net, rows, h + t * step, heads + t * columns, horizon * columns);
        for (int64_t row = 0; row < rows; row++)
            for (int i = 0; i < net->masks; i++)
                if (observations[row * numbers + net->mask + i] == 0)
                    heads[(row * horizon + t) * columns + i] = -1e9f;
    }
}

// Powers of logits over the largest, to room for `columns`, and their sum over `actions`.
INLINE float sum_exp(const Network *net, const float *logits, float *most, float *powers) {
    float sum = 0;
    *most = logits[0];
    for (int j = 1; j < net->actions; j++) *most = logits[j] > *most ? logits[j] : *most;
    for (int j = 0; j < net->columns; j += WIDE) *at(powers + j) = exponential(*at(logits + j) - *most);
    for (int j = 0; j < net->actions; j++) sum += powers[j];
    return sum;
}

// `Policy.play`: one step of all rows, and the actions drawn [rows] with noise [rows, actions].
static void network_play(const Network *net, int rows, const float *observations, const float *noise,
                         const float *h_last, const float *c_last, float *h, float *c, int64_t *drawn,
                         float *logprobs, float *values) {
    const LstmSizes sizes = {rows, 1, net->inputs, net->hidden, net->bfloat16};
    const int columns = net->columns, actions = net->actions;
    float *memory = malloc((rows * (int64_t)(2 * net->inputs + net->hidden + columns) + 64) * sizeof *memory);
    float *room = memory, *x = take(&room, (int64_t)rows * net->inputs),
          *heads = take(&room, (int64_t)rows * columns);
    float *z = take(&room, (int64_t)rows * (net->inputs + net->hidden)), most, powers[columns];
    network_forward(net, &sizes, observations, h_last, c_last, x, net->bfloat16 ? NULL : z, z, NULL, c, h,
                    heads);
    for (int row = 0; row < rows; row++, heads += columns, noise += actions) {
        int best = 0;
        for (int j = 1; j < actions; j++)
            if (heads[j] + noise[j] > heads[best] + noise[best]) best = j;
        const float normalizer = logf(sum_exp(net, heads, &most, powers));
        drawn[row] = best, logprobs[row] = heads[best] - most - normalizer, values[row] = heads[actions];
    }
    free(memory);
}

// What `Trainer.rollout` plays: rows that are the copies [start, end) of an environment, `horizon` steps, of which `step`
// are done. Arrays begin at the first of the rows: the environment's own, whose observations are int8_t or float, and those
// of segments, [rows, horizon, …]. noise [horizon, rows, actions]. h and c [rows, hidden] are the state, h_next and c_next
// room for the next one. seconds: what the environment took.
typedef struct Rollout {
    int rows, horizon, step, start, end, int8;
    const void *observations;
    int64_t *actions;
    const float *rewards;
    const uint8_t *terminals, *truncations;
    void *to_observations;
    int64_t *to_actions;
    float *to_logprobs, *to_values, *to_rewards;
    uint8_t *to_terminals, *to_truncations;
    const float *noise;
    float *h, *c, *h_next, *c_next;
    void *vec;
    int (*vec_step)(void *vec, int start, int end);
    double seconds;
} Rollout;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

// Plays on until episodes were cut or all steps are done, and returns how many were cut in the last one.
static int network_rollout(const Network *net, Rollout *of) {
    const int rows = of->rows, horizon = of->horizon, numbers = net->numbers;
    const int64_t count = (int64_t)rows * numbers,
                  size = numbers * (of->int8 ? sizeof(int8_t) : sizeof(float));
    float *memory = malloc((2 * (int64_t)rows + (of->int8 ? count : 0)) * sizeof *memory);
    float *logprobs = memory, *values = memory + rows, *floats = memory + 2 * rows;
    int cut = 0;
    while (!cut && of->step < horizon) {
        const int t = of->step++;
        keep_apart();
        for (int64_t i = 0; of->int8 && i < count; i++) floats[i] = ((const int8_t *)of->observations)[i];
        network_play(net, rows, of->int8 ? floats : of->observations,
                     of->noise + (int64_t)t * rows * net->actions, of->h, of->c, of->h_next, of->c_next,
                     of->actions, logprobs, values);
        float *h = of->h, *c = of->c;
        of->h = of->h_next, of->c = of->c_next, of->h_next = h, of->c_next = c;
        for (int64_t row = 0, to = t; row < rows; row++, to += horizon) {
            memcpy((char *)of->to_observations + to * size, (const char *)of->observations + row * size,
                   size);
            of->to_actions[to] = of->actions[row];
            of->to_logprobs[to] = logprobs[row], of->to_values[to] = values[row];
        }
        const double began = now();
        cut = of->vec_step(of->vec, of->start, of->end);
        of->seconds += now() - began;
        for (int64_t row = 0, to = t; row < rows; row++, to += horizon) {
            of->to_rewards[to] = of->rewards[row];
            of->to_terminals[to] = of->terminals[row], of->to_truncations[to] = of->truncations[row];
        }
    }
    leave_core();
    free(memory);
    return cut;
}

// A minibatch: `draws` of segments, by their index. advantages and targets are those of the draws, [draws, horizon], as are
// the newest values and the ratios to the rollout's probabilities, which are results; the rest are those of all segments.
// observations are int8_t or float, those of the draws where `seen` says. What was drawn more than once is computed once: of
// `rows` segments, `draw` says which draw they are of, `times` how often there are such, and `same` [draws] which draw's
// results each has.
typedef struct Samples {
    int draws, horizon, rows, int8;
    int64_t segments;
    const int64_t *index, *seen, *actions;
    const void *observations;
    const float *advantages, *targets, *logprobs, *old_values, *valid, *h, *c;
    float *values, *ratios;
    int64_t *draw, *same, *times;
    float clip_coef, vf_coef, vf_clip_coef, ent_coef, count; // the loss is a sum divided by `count`
} Samples;

// Fills rows, times, draw and same: by segments, or every draw for itself if there are some of a segment that differ. Returns
// 0 if there is no segment of some index.
static int network_draws(Samples *of) {
    for (int64_t i = 0; i < of->draws; i++)
        if (of->index[i] < 0 || of->index[i] >= of->segments) return 0;
    const int64_t horizon = of->horizon, size = horizon * sizeof(float);
    int64_t *first = malloc(2 * of->segments * sizeof *first), *times = first + of->segments;
    int equal = 1;
    for (int64_t segment = 0; segment < of->segments; segment++) first[segment] = -1, times[segment] = 0;
    for (int64_t i = 0; i < of->draws; i++) {
        int64_t *one = first + of->index[i];
        if (*one < 0) *one = i;
        times[of->index[i]]++, of->same[i] = *one;
        equal &= *one == i || (!memcmp(of->advantages + i * horizon, of->advantages + *one * horizon, size) &&
                               !memcmp(of->targets + i * horizon, of->targets + *one * horizon, size));
    }
    of->rows = 0;
    for (int64_t segment = 0; equal && segment < of->segments; segment++)
        if (times[segment]) of->draw[of->rows] = first[segment], of->times[of->rows++] = times[segment];
    for (int64_t i = 0; !equal && i < of->draws; i++)
        of->draw[of->rows] = of->same[i] = i, of->times[of->rows++] = 1;
    free(first);
    return 1;
}

// PPO's loss: its gradient by those heads [rows, horizon, columns] that are used, values and ratios, and the sums over
// samples of five statistics: policy loss, value loss, entropy, KL, clipped.
static void ppo(const Network *net, const Samples *of, const float *heads, float *dheads, double *stats) {
    const int columns = net->columns, actions = net->actions;
    const float low = 1 - of->clip_coef, high = 1 + of->clip_coef, reach = of->vf_clip_coef;
    float most, probabilities[columns];
    for (int64_t step = 0; step < (int64_t)of->rows * of->horizon;
         step++, heads += columns, dheads += columns) {
        const int64_t row = step / of->horizon, t = step % of->horizon, i = of->draw[row] * of->horizon + t;
        const int64_t sample = of->index[of->draw[row]] * of->horizon + t;
        const int drawn = of->actions[sample];
        const float sum = sum_exp(net, heads, &most, probabilities), normalizer = logf(sum),
                    inverse = 1 / sum;
        float entropy = normalizer;
        for (int j = 0; j < actions; j++) {
            probabilities[j] *= inverse;
            entropy -= probabilities[j] * (heads[j] - most);
        }
        const float logratio = heads[drawn] - most - normalizer - of->logprobs[sample],
                    ratio = expf(logratio);
        const float plain = of->advantages[i] * ratio;
        const float bounded = of->advantages[i] * (ratio < low ? low : ratio > high ? high : ratio);
        const float valid = of->valid[sample] * of->times[row], scale = valid / of->count;
        const float dlogprob = plain > bounded ? 0 : -scale * plain;
        for (int j = 0; j < actions; j++) {
            const float away = heads[j] - most - normalizer + entropy;
            dheads[j] =
                of->ent_coef * scale * probabilities[j] * away + dlogprob * ((j == drawn) - probabilities[j]);
        }
        const float old = of->old_values[sample], error = heads[actions] - of->targets[i],
                    moved = heads[actions] - old;
        const float near_error = old + (moved < 0 ? -reach : reach) - of->targets[i];
        const int far = reach > 0 && (moved < -reach || moved > reach);
        const int bound = far && near_error * near_error > error * error; // then nothing moves the value
        dheads[actions] = bound ? 0 : of->vf_coef * scale * error;
        of->values[i] = heads[actions], of->ratios[i] = ratio;
        stats[0] -= valid * (plain > bounded ? bounded : plain);
        stats[1] += valid * 0.5f * (bound ? near_error * near_error : error * error);
        stats[2] += valid * entropy;
        stats[3] += valid * (ratio - 1 - logratio);
        stats[4] += valid * (ratio > high || ratio < low);
    }
}

// Numbers of the gradients but those of the large matrices, in network_collect's order: dencoder's bias, dbias and dhead.
INLINE int64_t size_of_small(const Network *net) {
    return net->inputs + 4 * net->hidden + (int64_t)(1 + net->hidden) * net->columns;
}

// Numbers of all: dencoder, dweights, dbias and dhead one after the other; dhead has `columns` biases first, then [columns,
// hidden].
static int64_t size_of_sums(const Network *net) {
    const int64_t inputs = net->inputs, hidden = net->hidden;
    return net->numbers * inputs + 4 * hidden * (inputs + hidden) + size_of_small(net);
}

// Numbers that gradients_block needs room for, for every step and for every row.
INLINE int64_t room_of_block(const Network *net, int64_t rows, int horizon) {
    const int64_t wide = net->inputs + net->hidden,
                  step = 2 * net->columns + 6 * net->hidden + net->inputs + net->numbers + wide;
    return rows * horizon * step + rows * (8 * net->hidden + 2 * wide) + size_of_small(net) + 256;
}

// network_gradients of a few segments, in memory for room_of_block. They are added to sums after `before` others were,
// which `added` counts.
static void gradients_block(const Network *net, const Samples *of, float *memory, int before, int *added,
                            float *sums, double *stats) {
    const int rows = of->rows, horizon = of->horizon, inputs = net->inputs, hidden = net->hidden;
    const int numbers = net->numbers, columns = net->columns, used = net->actions + 1, wide = inputs + hidden;
    const LstmSizes sizes = {rows, horizon, inputs, hidden, net->bfloat16};
    const int64_t steps = (int64_t)rows * horizon, step = (int64_t)rows * hidden;
    float *room = memory;
    float *dheads = take(&room, steps * columns), *dh = take(&room, step), *dc = take(&room, step);
    float *dz = take(&room, rows * wide);
    float *heads = take(&room, steps * columns), *x = take(&room, steps * inputs),
          *observations = take(&room, steps * numbers), *h_first = take(&room, step);
    float *c_first = take(&room, step), *c = take(&room, steps * hidden), *h = take(&room, steps * hidden);
    float *gates = take(&room, horizon * gates_step(&sizes));
    Operand *z = take(&room, paired(&sizes) * horizon * wide),
            *scratch = take(&room, rows * (4 * hidden + wide));
    float *seen = observations, *small = take(&room, size_of_small(net));
    float *dbias = small + inputs, *dhead = dbias + 4 * hidden;
    memset(dc, 0, step * sizeof *dc);
    memset(small, 0, size_of_small(net) * sizeof *small);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t segment = of->index[of->draw[row]];
        memcpy(h_first + row * hidden, of->h + segment * hidden, hidden * sizeof *h);
        memcpy(c_first + row * hidden, of->c + segment * hidden, hidden * sizeof *c);
    }
    for (int t = 0; t < horizon; t++)
        for (int64_t row = 0; row < rows; row++, seen += numbers) {
            const int64_t from = (of->seen[of->draw[row]] * horizon + t) * numbers;
            if (of->int8)
                for (int i = 0; i < numbers; i++) seen[i] = ((const int8_t *)of->observations)[from + i];
            else
                memcpy(seen, (const float *)of->observations + from, numbers * sizeof *seen);
        }
    network_forward(net, &sizes, observations, h_first, c_first, x, z, scratch, gates, c, h, heads);
    ppo(net, of, heads, dheads, stats);
    for (int64_t t = horizon - 1; t >= 0; t--) {
        const float *d = dheads + t * columns;
        for (int64_t row = 0; row < rows; row++)
            for (int j = 0; j < used; j++) dhead[j] += d[row * horizon * columns + j];
        add_product(0, used, hidden, rows, d, 1, horizon * columns, h + t * step, hidden, dhead + columns,
                    hidden);
        product(0, rows, hidden, used, d, horizon * columns, 1, net->head_transposed, hidden, NULL, 0, dh,
                hidden);
        lstm_backward_step(&sizes, dh, t < horizon - 1 ? dz : NULL, gates + t * gates_step(&sizes),
                           t ? c + (t - 1) * step : c_first, c + t * step, net->weights, scratch, dc, dz,
                           dbias);
        float *of_x = x + t * rows * inputs;
        for (int64_t row = 0; row < rows; row++, of_x += inputs)
            for (int j = 0; j < inputs; j++) { // relu passes what was above 0; x becomes its own gradient
                of_x[j] = of_x[j] > 0 ? dz[row * wide + j] : 0;
                small[j] += of_x[j];
            }
    }
    // Others have begun with those before, and will soon have done.
    while (__atomic_load_n(added, __ATOMIC_ACQUIRE) < before)
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    if (!before) memset(sums, 0, size_of_sums(net) * sizeof *sums);
    for (int j = 0; j < inputs; j++) *sums++ += *small++;
    add_product(0, numbers, inputs, steps, observations, 1, numbers, x, inputs, sums, inputs);
    sums += (int64_t)numbers * inputs;
    lstm_backward_weights(&sizes, gates, z, sums);
    sums += (int64_t)4 * hidden * wide;
    for (int64_t j = inputs; j < size_of_small(net); j++) *sums++ += *small++;
    __atomic_store_n(added, before + 1, __ATOMIC_RELEASE);
}

// How many of the segments that are left are the next block: where tiles have them, ROWS or FEW, and one more of an odd
// number. Few are enough where a step's operands are half as large, and their activations stay nearer.
static int block_of(int bfloat16, int left) {
    if (left <= BLOCK || FEW == 1) return left < BLOCK ? left : BLOCK;
    if (left % 2) return FEW + 1;
    return bfloat16 ? left % FEW ? ROWS : FEW : left % ROWS ? FEW : ROWS;
}

// The lane with the most of the blocks left to begin, every `lanes`-th one of which is its own; -1 if none is left.
static int fullest_lane(int blocks, int lanes, const int *begun) {
    int fullest = -1, most = 0;
    for (int lane = 0; lane < lanes; lane++) {
        const int left =
            (blocks - lane + lanes - 1) / lanes - __atomic_load_n(begun + lane, __ATOMIC_RELAXED);
        if (left > most) most = left, fullest = lane;
    }
    return fullest;
}

// `Trainer.gradients` of a minibatch, for any number of threads at once: sums of the gradients [lanes, size_of_sums], values,
// ratios and, added to stats [blocks, 5], ppo's statistics of each block. It goes by blocks of segments whose activations stay in
// a near cache. Block i is added to the sums of lane i % lanes, always one after the other, so that the threads do not change a
// bit. Each thread keeps to a lane, whose sums stay near, while there is some of it to begin. progress [2, lanes], zeros at
// first, counts each lane's blocks that were begun and that were added. Who begins one ends it: none is waited for in vain.
static void network_gradients(const Network *net, const Samples *whole, int lanes, int *progress, float *sums,
                              double *stats) {
    float *memory = NULL;
    int blocks = 0, lane = -1;
    for (int first = 0; first < whole->rows; blocks++) first += block_of(net->bfloat16, whole->rows - first);
    while (lane >= 0 || (lane = fullest_lane(blocks, lanes, progress)) >= 0) {
        keep_apart();
        const int before = __atomic_fetch_add(progress + lane, 1, __ATOMIC_RELAXED),
                  mine = before * lanes + lane;
        if (mine >= blocks) {
            lane = -1;
            continue;
        }
        int first = 0;
        for (int block = 0; block < mine; block++) first += block_of(net->bfloat16, whole->rows - first);
        if (!memory) memory = malloc(room_of_block(net, BLOCK, whole->horizon) * sizeof *memory);
        Samples part = *whole;
        part.rows = block_of(net->bfloat16, whole->rows - first), part.draw += first, part.times += first;
        gradients_block(net, &part, memory, before, progress + lanes + lane, sums + lane * size_of_sums(net),
                        stats + 5 * mine);
    }
    leave_core();
    free(memory);
}

// What network_gradients has left to do when all threads are done: adds up the lanes, to the gradient [network_size], and the
// statistics, to losses [5], as parts of means over `count` samples; fills in values and ratios of draws that were not computed.
static void network_collect(const Network *net, const Samples *of, int lanes, const int *progress,
                            float *sums, const double *stats, float *gradient, float *losses) {
    const Parameters to = parameters_in(net, gradient);
    const int64_t inputs = net->inputs, hidden = net->hidden, wide = inputs + hidden, actions = net->actions;
    const int64_t before = (1 + net->numbers) * inputs, size = size_of_sums(net);
    const int *added = progress + lanes;
    if (!added[0]) memset(sums, 0, size * sizeof *sums); // of no draws
    const float *weights = sums + before, *bias = weights + 4 * hidden * wide, *head = bias + 4 * hidden;
    int blocks = added[0], filled = 1;
    for (; filled < lanes && added[filled]; filled++) blocks += added[filled];
    for (int64_t row = 0; row < 4 * hidden; row++, weights += wide) {
        float *dx = to.w_ih + row * inputs, *dh = to.w_hh + row * hidden;
        memcpy(dx, weights, inputs * sizeof *dx), memcpy(dh, weights + inputs, hidden * sizeof *dh);
        for (int lane = 1; lane < filled; lane++) {
            for (int64_t i = 0; i < inputs; i++) dx[i] += weights[lane * size + i];
            for (int64_t i = 0; i < hidden; i++) dh[i] += weights[lane * size + inputs + i];
        }
    }
    for (int lane = 1; lane < filled; lane++) {
        for (int64_t i = 0; i < before; i++) sums[i] += sums[lane * size + i];
        for (int64_t i = bias - sums; i < size; i++) sums[i] += sums[lane * size + i];
    }
    memcpy(to.encoder_bias, sums, inputs * sizeof *sums);
    for (int64_t k = 0; k < net->numbers; k++)
        for (int64_t i = 0; i < inputs; i++)
            to.encoder[i * net->numbers + k] = net->scale * sums[(k + 1) * inputs + i];
    memcpy(to.b_ih, bias, 4 * hidden * sizeof *bias), memcpy(to.b_hh, bias, 4 * hidden * sizeof *bias);
    for (int64_t j = 0; j <= actions; j++) {
        float *row = j < actions ? to.actor + j * hidden : to.critic;
        *(j < actions ? to.actor_bias + j : to.critic_bias) = head[j];
        for (int64_t i = 0; i < hidden; i++) row[i] = net->head_factor * head[net->columns + j * hidden + i];
    }
    for (int k = 0; k < 5; k++) {
        double sum = 0;
        for (int block = 0; block < blocks; block++) sum += stats[5 * block + k];
        losses[k] = sum / of->count;
    }
    for (int64_t i = 0; i < of->draws; i++) {
        const int64_t from = of->same[i] * of->horizon, there = i * of->horizon;
        if (from == there) continue;
        memcpy(of->values + there, of->values + from, of->horizon * sizeof *of->values);
        memcpy(of->ratios + there, of->ratios + from, of->horizon * sizeof *of->ratios);
    }
}

// Numbers [rows, columns] as operands that are summed over columns and, made from these, over rows. In float32 both are
// the same.
INLINE void both_operands(int bfloat16, int rows, int columns, const float *numbers, Operand *over_columns,
                          Operand *over_rows) {
    to_operands(bfloat16, rows * columns, numbers, over_columns);
    if (bfloat16) pair_rows(rows, columns, over_columns, over_rows);
}

// c [wide, wide] += a [wide, depth] b [depth, wide] where that is symmetric: what is above its diagonal blocks is copied.
INLINE void add_symmetric(int bfloat16, int wide, int64_t depth, const Operand *a, int64_t a_row,
                          int64_t a_depth, const Operand *b, float *c) {
    for (int64_t first = 0, next; first < wide; first = next) {
        next = wide - first > 4 * WIDE ? first + 4 * WIDE : wide;
        add_product(bfloat16, wide - first, next - first, depth, a + first * a_row, a_row, a_depth, b + first,
                    wide, c + first * wide + first, wide);
        for (int64_t i = first; i < next; i++)
            for (int64_t j = next; j < wide; j++) c[i * wide + j] = c[j * wide + i];
    }
}

INLINE void newton_schulz(int bfloat16, int rows, int columns, float *x) {
    const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    const int tall = rows >= columns, many = ((tall ? rows : columns) + 1) / 2 * 2,
              wide = ((tall ? columns : rows) + 15) / 16 * 16, pack = 1 + bfloat16;
    const int64_t size = (int64_t)many * wide, square = (int64_t)wide * wide;
    float *memory = malloc((3 * size + 6 * square + 64) * sizeof *memory), *room = memory;
    float *y = take(&room, size), *gram = take(&room, square), *sum = take(&room, square);
    Operand *across = take(&room, size), *down = bfloat16 ? take(&room, size) : across; // of y
    Operand *gram_across = take(&room, square), *gram_down = bfloat16 ? take(&room, square) : gram_across;
    Operand *sum_across = take(&room, square), *sum_down = bfloat16 ? take(&room, square) : sum_across;
    double squares = 0;
    for (int64_t i = 0; i < (int64_t)rows * columns; i++) squares += (double)x[i] * x[i];
    const float norm = sqrt(squares), scale = 1 / (norm < 1e-7f ? 1e-7f : norm);
    memset(y, 0, size * sizeof *y);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            y[tall ? i * wide + j : j * wide + i] = scale * x[i * columns + j];
    for (int step = 0; step < 5; step++) { // y becomes y (a + b gram + c gram²)
        both_operands(bfloat16, many, wide, y, across, down);
        memset(gram, 0, square * sizeof *gram);
        add_symmetric(bfloat16, wide, many / pack, down, 1, wide, down, gram);
        both_operands(bfloat16, wide, wide, gram, gram_across, gram_down);
        for (int64_t i = 0; i < square; i++) sum[i] = b / c * gram[i];
        add_symmetric(bfloat16, wide, wide / pack, gram_across, wide / pack, 1, gram_down, sum);
        for (int64_t i = 0; i < square; i++) sum[i] *= c;
        both_operands(bfloat16, wide, wide, sum, sum_across, sum_down);
        for (int64_t i = 0; i < size; i++) y[i] *= a;
        add_product(bfloat16, many, wide, wide / pack, across, wide / pack, 1, sum_down, wide, y, wide);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) x[i * columns + j] = y[tall ? i * wide + j : j * wide + i];
    free(memory);
}

// `orthogonalize` in cleanpuffer.py, in place, of a matrix x [rows, columns]. It iterates on y [many, wide]: x with its
// longer side first, and zeros, which stay so, up to an even number of rows and a multiple of 16 columns.
static void orthogonalize(int bfloat16, int rows, int columns, float *x) {
    if (bfloat16)
        newton_schulz(1, rows, columns, x);
    else
        newton_schulz(0, rows, columns, x);
}

// A parameter [rows, columns] of an optimizer; Adam's has a variance. With bfloat16 it is orthogonalised in that.
typedef struct Moved {
    int rows, columns, bfloat16;
    double lr, beta1, beta2, eps;
    float *parameter;
    const float *gradient;
    float *momentum, *variance;
} Moved;

// `Muon.step` of parameters [count], the steps-th.
static void muon_step(int count, const Moved *moved, int steps) {
    keep_apart();
    for (const Moved *of = moved; of < moved + count; of++) {
        const float lr = of->lr, ahead = of->beta1, rest1 = 1 - of->beta1, rest2 = 1 - of->beta2;
        const float unbias1 = 1 - pow(of->beta1, steps), unbias2 = 1 - pow(of->beta2, steps), eps = of->eps;
        const int64_t size = (int64_t)of->rows * of->columns;
        const float *gradient = of->gradient;
        float *parameter = of->parameter, *momentum = of->momentum, *variance = of->variance;
        for (int64_t i = 0; i < size; i++) momentum[i] += rest1 * (gradient[i] - momentum[i]);
        if (variance) {
            for (int64_t i = 0; i < size; i++) {
                variance[i] += rest2 * (gradient[i] * gradient[i] - variance[i]);
                parameter[i] -= lr / unbias1 * momentum[i] / (sqrtf(variance[i] / unbias2) + eps);
            }
            continue;
        }
        const float factor = lr * sqrtf(of->rows > of->columns ? (float)of->rows / of->columns : 1);
        float *update = malloc(size * sizeof *update);
        for (int64_t i = 0; i < size; i++) update[i] = gradient[i] + ahead * (momentum[i] - gradient[i]);
        orthogonalize(of->bfloat16, of->rows, of->columns, update);
        for (int64_t i = 0; i < size; i++) parameter[i] -= factor * update[i];
        free(update);
    }
    leave_core();
}

#endif
