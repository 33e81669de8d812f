/* An update's passes, gradients of losses and steps on one thread of a CPU, for the machine that compiles it.

   MKL takes the products of 256 x 256 x 256 at 85 % of what a core can do and leaves bias, ReLU and their gradients
   to further passes over memory; here a product ends with them while its tile is in registers.

   Matrices lie row by row. NaN passes through everything, so that a run that diverges is noticed. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef __AVX512F__
enum { VECTOR = 16, ROWS = 8, WIDTH = 2 * VECTOR, TILES_OF_TURNED = 0 };
#elif defined __AVX__
enum { VECTOR = 8, ROWS = 6, WIDTH = 2 * VECTOR, TILES_OF_TURNED = 1 }; /* as many as 16 registers hold */
#else
enum { VECTOR = 4, ROWS = 6, WIDTH = 2 * VECTOR, TILES_OF_TURNED = 1 }; /* SSE, NEON: gcc keeps no longer ones in them */
#endif

typedef float vector __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias)); /* whatever VECTOR is */
typedef int32_t places __attribute__((vector_size(32)));

#define AT(p) (*(const vector *)(p))
#define PUT(p) (*(vector *)(p))
#define WHERE_POSITIVE(x, y) ((vector)(~((x) <= (vector){0}) & (mask)(y))) /* 0 elsewhere; y where x is NaN */
#ifdef __clang__
#define SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(x, y, ...) __builtin_shuffle(x, y, (places){__VA_ARGS__})
#endif
#define EACH_ROW _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)

/* What is done to a product c [m, n] at last. */
struct end {
    enum { PLAIN, BIAS, RELU, RELU_GRADIENT } kind;
    const float *bias;   /* BIAS: c = c + bias [n]; RELU: c = max(c + bias, 0) */
    const float *output; /* RELU_GRADIENT: c = c * scale where output [m, n] > 0, else 0; ... */
    float scale;
    float *sum; /* ... and sum [n] += c over rows */
};

#ifdef __AVX512BF16__
#include <immintrin.h>

int has_bf16(void) { return 1; }

/* In bfloat16 two numbers that follow each other along k share a place. */
static inline vector multiply_add_pairs(vector sum, float pair, vector b) {
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(pair), (__m512bh)b);
}

/* x [rows, k] -> pairs [rows, (k + 1) / 2] */
static void pair_columns(int rows, int k, const float *x, float *pairs) {
    const int half = (k + 1) / 2;
    for (int i = 0; i < rows; i++)
        for (int l = 0; l < k; l += 32) {
            const int left = k - l < 32 ? k - l : 32, units = (left + 1) / 2;
            const uint32_t some = left == 32 ? ~0u : (1u << left) - 1;
            const float *from = x + (size_t)i * k + l;
            const __m512 one = _mm512_maskz_loadu_ps(some, from), two = _mm512_maskz_loadu_ps(some >> 16, from + 16);
            _mm512_mask_storeu_ps(pairs + (size_t)i * half + l / 2, units == 16 ? 0xffff : (1u << units) - 1,
                                  (__m512)_mm512_cvtne2ps_pbh(two, one));
        }
}

/* x [k, n] -> pairs [(k + 1) / 2, n] */
static void pair_rows(int k, int n, const float *x, float *pairs) {
    for (int l = 0; l < k; l += 2)
        for (int j = 0; j < n; j += 16) {
            const uint32_t some = n - j < 16 ? (1u << (n - j)) - 1 : 0xffff;
            const float *from = x + (size_t)l * n + j;
            const __m512 one = _mm512_maskz_loadu_ps(some, from);
            const __m512 two = l + 1 < k ? _mm512_maskz_loadu_ps(some, from + n) : _mm512_setzero_ps();
            const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(one));
            const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(two));
            const __m512i both = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
            _mm512_mask_storeu_epi32(pairs + (size_t)(l / 2) * n + j, some, both);
        }
}
#else
int has_bf16(void) { return 0; }
static inline vector multiply_add_pairs(vector sum, float pair, vector b) { return sum; }
static void pair_columns(int rows, int k, const float *x, float *pairs) {}
static void pair_rows(int k, int n, const float *x, float *pairs) {}
#endif

static inline __attribute__((always_inline)) vector multiply_add(const int bf16, vector sum, float x, vector b) {
    if (bf16) return multiply_add_pairs(sum, x, b);
    return sum + x * b;
}

/* c [rows, WIDTH] of n columns = a [rows, k] · panel [k, WIDTH]; a(i, l) lies at a[l * stride + i] if turned, else at
   a[i * stride + l]. The constants make four loops of it for each number of rows. */
static inline __attribute__((always_inline)) void tile(const int bf16, const int turned, const int rows, int k,
                                                       const float *a, size_t stride, const float *panel, float *c,
                                                       size_t n, const struct end *end) {
    vector s[ROWS][2] = {0};
    for (int l = 0; l < k; l++) {
        const vector b0 = AT(panel + l * WIDTH), b1 = AT(panel + l * WIDTH + VECTOR);
        EACH_ROW {
            const float x = turned ? a[l * stride + i] : a[i * stride + l];
            s[i][0] = multiply_add(bf16, s[i][0], x, b0);
            s[i][1] = multiply_add(bf16, s[i][1], x, b1);
        }
    }
    if (end->kind == BIAS || end->kind == RELU) {
        const vector bias0 = AT(end->bias), bias1 = AT(end->bias + VECTOR);
        EACH_ROW s[i][0] += bias0, s[i][1] += bias1;
    }
    if (end->kind == RELU) {
        EACH_ROW {
            s[i][0] = WHERE_POSITIVE(s[i][0], s[i][0]), s[i][1] = WHERE_POSITIVE(s[i][1], s[i][1]);
        }
    } else if (end->kind == RELU_GRADIENT) {
        vector sum0 = AT(end->sum), sum1 = AT(end->sum + VECTOR);
        EACH_ROW {
            const float *output = end->output + i * n;
            s[i][0] = WHERE_POSITIVE(AT(output), s[i][0] * end->scale);
            s[i][1] = WHERE_POSITIVE(AT(output + VECTOR), s[i][1] * end->scale);
            sum0 += s[i][0], sum1 += s[i][1];
        }
        PUT(end->sum) = sum0, PUT(end->sum + VECTOR) = sum1;
    }
    EACH_ROW { PUT(c + i * n) = s[i][0], PUT(c + i * n + VECTOR) = s[i][1]; }
}

static void tile_of(int bf16, int turned, int rows, int k, const float *a, size_t stride, const float *panel, float *c,
                    size_t n, const struct end *end) {
#define CASE(r)                                                                 \
    case r:                                                                     \
        if (bf16 && turned) tile(1, 1, r, k, a, stride, panel, c, n, end);      \
        else if (bf16) tile(1, 0, r, k, a, stride, panel, c, n, end);           \
        else if (turned) tile(0, 1, r, k, a, stride, panel, c, n, end);         \
        else tile(0, 0, r, k, a, stride, panel, c, n, end);                     \
        return;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#ifdef __AVX512F__
        CASE(7) CASE(8)
#endif
    }
#undef CASE
}

/* The end of a tile [rows, width] that is narrower than WIDTH and lies in s. */
static void end_narrow(int rows, int width, const float *s, float *c, size_t n, const struct end *end) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j++) {
            float x = s[i * WIDTH + j];
            if (end->kind == BIAS || end->kind == RELU) x += end->bias[j];
            if (end->kind == RELU) {
                x = x <= 0 ? 0 : x;
            } else if (end->kind == RELU_GRADIENT) {
                x = end->output[i * n + j] <= 0 ? 0 : x * end->scale;
                end->sum[j] += x;
            }
            c[i * n + j] = x;
        }
}

/* to [8, 8] = from [8, 8] turned, rows so many floats apart */
static inline void turn(const float *from, size_t from_apart, float *to, size_t to_apart) {
    eight r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = *(const eight *)(from + i * from_apart);
    for (int i = 0; i < 8; i += 2) { /* each half of 4 by itself, as is cheapest */
        s[i] = SHUFFLE(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[i + 1] = SHUFFLE(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = SHUFFLE(s[i + j], s[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            r[i + 2 * j + 1] = SHUFFLE(s[i + j], s[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        *(eight *)(to + i * to_apart) = SHUFFLE(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(eight *)(to + (i + 4) * to_apart) = SHUFFLE(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* panel [k, WIDTH] = b(l, j) = b[l * bl + j * bj], 0 beyond width; bl or bj is 1. */
static void pack(int k, int width, const float *b, size_t bl, size_t bj, float *panel) {
    int l = 0;
    if (width == WIDTH && bj == 1)
        for (; l < k; l++) {
            PUT(panel + l * WIDTH) = AT(b + l * bl);
            PUT(panel + l * WIDTH + VECTOR) = AT(b + l * bl + VECTOR);
        }
    else if (width == WIDTH)
        for (; l + 8 <= k; l += 8)
            for (int j = 0; j < WIDTH; j += 8) turn(b + l + j * bj, bj, panel + l * WIDTH + j, WIDTH);
    for (; l < k; l++)
        for (int j = 0; j < WIDTH; j++) panel[l * WIDTH + j] = j < width ? b[l * bl + j * bj] : 0;
}

/* Floats from a tile of pack_tiles to the next: 16 more than a tile has, so that not all begin in the same two sets of
   the cache. */
static size_t tile_size(int k) { return (size_t)k * ROWS + 16; }

/* tiles: for each ROWS columns of a [k, m] their [k, ROWS]. Read in place, a tile would touch a cache line of its own
   for every l, in so few sets of the cache that none stays there for the next tile. */
static void pack_tiles(int k, int m, const float *a, float *tiles) {
    for (int l = 0; l < k; l++) {
        float *to = tiles + l * ROWS;
        for (int i = 0; i < m; i += ROWS, to += tile_size(k)) {
            const float *const from = a + (size_t)l * m + i;
            if (i + 8 <= m) *(eight *)to = *(const eight *)from; /* what is too much is written over or not read */
            else for (int r = 0; r < ROWS && i + r < m; r++) to[r] = from[r];
        }
    }
}

/* c [m, n] = a [m, k] · b [k, n]; a_turned, b_turned: they lie as [k, m] and [n, k].
   scratch: WIDTH k floats, for tiles (m / ROWS + 1) (ROWS k + 16) more, in bfloat16 (m + n) (k + 1) / 2. */
static void product(int bf16, int m, int n, int k, const float *a, int a_turned, const float *b, int b_turned, float *c,
                    struct end end, float *scratch) {
    float *const panel = scratch;
    if (bf16) {
        float *const a_pairs = scratch + (size_t)WIDTH * k, *const b_pairs = a_pairs + (size_t)m * ((k + 1) / 2);
        if (a_turned) pair_rows(k, m, a, a_pairs);
        else pair_columns(m, k, a, a_pairs);
        if (b_turned) pair_columns(n, k, b, b_pairs);
        else pair_rows(k, n, b, b_pairs);
        a = a_pairs, b = b_pairs, k = (k + 1) / 2;
    }
    const int tiles = a_turned && TILES_OF_TURNED;
    if (tiles) {
        pack_tiles(k, m, a, scratch + (size_t)WIDTH * k);
        a = scratch + (size_t)WIDTH * k;
    }
    const size_t stride = tiles ? ROWS : a_turned ? m : k, bl = b_turned ? 1 : n, bj = b_turned ? k : 1;
    for (int j = 0; j < n; j += WIDTH) {
        const int width = n - j < WIDTH ? n - j : WIDTH;
        pack(k, width, b + j * bj, bl, bj, panel);
        for (int i = 0; i < m; i += ROWS) {
            const int rows = m - i < ROWS ? m - i : ROWS;
            const float *const from = tiles ? a + i / ROWS * tile_size(k) : a_turned ? a + i : a + i * stride;
            const size_t place = (size_t)i * n + j;
            struct end here = end;
            if (end.bias) here.bias += j;
            if (end.sum) here.sum += j, here.output += place;
            if (width == WIDTH) {
                tile_of(bf16, a_turned, rows, k, from, stride, panel, c + place, n, &here);
            } else {
                float narrow[ROWS * WIDTH];
                tile_of(bf16, a_turned, rows, k, from, stride, panel, narrow, WIDTH, &(struct end){.kind = PLAIN});
                end_narrow(rows, width, narrow, c + place, n, &here);
            }
        }
    }
}

/* One perceptron with its buffers; native_iql.py fills it. inputs, gradients: of each layer [batch, its width]. Kernels
   are [in, out], the last one [out, in]; of `bf16`, the products between hidden layers are taken in bfloat16.

   norm: where hidden layers are normalised, before or after ReLU. Then products hold what goes into that, [batch,
   width], and statistics of each row its mean and the inverse of its standard deviation, [batch, 2]. What comes out is
   read nowhere but in the next layer: to make it again in the backward pass costs less than to keep it.

   gelu: it takes ReLU's place; products hold the products themselves. */
struct pass {
    int64_t depth, batch, bf16, norm, gelu;
    const int64_t *widths; /* depth + 1 */
    float **inputs, **kernels, **biases, **gradients, **kernel_gradients, **bias_gradients;
    float **norm_scales, **norm_biases, **norm_scale_gradients, **norm_bias_gradients;
    float **products, **statistics;
    float *output, *scratch;
};

enum { NO_NORM, BEFORE_RELU, AFTER_RELU };
#define LAYER_NORM_EPSILON 1e-6f

/* A sum over a row is taken in four vectors at once: a single one would wait for itself. */
#define EACH_VECTOR(at) for (int u = 0, at = j; u < 4; u++, at += VECTOR)
enum { FOUR = 4 * VECTOR };

static inline float total(const vector *s) {
    const vector sum = (s[0] + s[1]) + (s[2] + s[3]);
    float all = 0;
    for (int i = 0; i < VECTOR; i++) all += sum[i];
    return all;
}

/* output [m, n] = x, with mean 0 and variance 1 in each row, * scale + shift; and ReLU of it with `rectify`. */
static void normalize(int m, int n, const float *x, const float *scale, const float *shift, int rectify,
                      float *statistics, float *output) {
    for (int i = 0; i < m; i++, x += n, output += n) {
        const float first = x[0]; /* sums of differences from it lose next to nothing where a mean is large */
        vector s[4] = {0}, t[4] = {0};
        int j = 0;
        for (; j + FOUR <= n; j += FOUR)
            EACH_VECTOR(k) {
                const vector away = AT(x + k) - first;
                s[u] += away, t[u] += away * away;
            }
        float sum = total(s), squares = total(t);
        for (; j < n; j++) sum += x[j] - first, squares += (x[j] - first) * (x[j] - first);
        const float shifted = sum / n, variance = squares / n - shifted * shifted;
        const float mean = statistics[2 * i] = first + shifted;
        const float inverse = statistics[2 * i + 1] = 1 / sqrtf((variance < 0 ? 0 : variance) + LAYER_NORM_EPSILON);
        for (j = 0; j + VECTOR <= n; j += VECTOR) {
            const vector y = (AT(x + j) - mean) * inverse * AT(scale + j) + AT(shift + j);
            PUT(output + j) = rectify ? WHERE_POSITIVE(y, y) : y;
        }
        for (; j < n; j++) {
            const float y = (x[j] - mean) * inverse * scale[j] + shift[j];
            output[j] = rectify && y <= 0 ? 0 : y;
        }
    }
}

/* GELU of z in its tanh form, z/2 (1 + tanh(u)) = z p with p = 1 / (1 + exp(-2u)), and its slope p + z p (1 - p) 2u'.
   Beyond +-10 p is 1 or 1e-38. */
static inline __attribute__((always_inline)) vector gelu_of(vector z, vector *slope) {
    const mask low = z < -10.0f, high = z > 10.0f; /* neither of NaN */
    const vector least = (vector){0} - 10.0f, most = (vector){0} + 10.0f;
    const vector x = (vector)(((mask)z & ~(low | high)) | ((mask)least & low) | ((mask)most & high));
    const vector square = x * x, power = x * (-2.3022082f - 0.10294324f * square); /* exp(-2u) = 2^power */
    const mask whole = __builtin_convertvector(power + 128.5f, mask) - 128;
    const vector part = power - __builtin_convertvector(whole, vector); /* within +-1/2 */
    vector e = 1.5353362e-4f * part + 1.3398874e-3f;
    e = e * part + 9.618437e-3f;
    e = e * part + 5.550333e-2f;
    e = e * part + 2.4022648e-1f;
    e = e * part + 6.9314720e-1f;
    e = (e * part + 1.0f) * (vector)((whole + 127) << 23);
    const vector p = 1.0f / (1.0f + e);
    if (slope) *slope = p + x * p * (e * p) * (1.5957691f + 0.21406445f * square); /* e p is 1 - p to the last bits */
    return z * p;
}

/* output [n] = GELU of z [n], and its slope [n] if that is not NULL */
static inline __attribute__((always_inline)) void gelu(int n, const float *z, float *output, float *slope) {
    int j = 0;
    for (; j + VECTOR <= n; j += VECTOR) {
        vector own;
        PUT(output + j) = gelu_of(AT(z + j), slope ? &own : NULL);
        if (slope) PUT(slope + j) = own;
    }
    if (j == n) return;
    vector rest = {0}, own;
    for (int k = 0; j + k < n; k++) rest[k] = z[j + k];
    rest = gelu_of(rest, &own);
    for (int k = 0; j + k < n; k++) {
        output[j + k] = rest[k];
        if (slope) slope[j + k] = own[k];
    }
}

/* gradient [m, n] of the output becomes that of x; with `rectified` that of what went into the ReLU that gave x, with a
   gelu_slope [m, n] that is not NULL of what went into the GELU that did. Then shift_gradient is summed, too, which else the
   caller has done. */
static inline __attribute__((always_inline)) void normalize_gradient(
    int m, int n, const float *x, const float *statistics, const float *scale, int rectified, const float *gelu_slope,
    float *gradient, float *scale_gradient, float *shift_gradient, float *bias_gradient) {
    for (int i = 0; i < m; i++, x += n, gradient += n) {
        const float mean = statistics[2 * i], inverse = statistics[2 * i + 1];
        vector s[4] = {0}, t[4] = {0};
        int j = 0;
        if (rectified || gelu_slope)
            for (; j < n; j++) shift_gradient[j] += gradient[j];
        for (j = 0; j + FOUR <= n; j += FOUR)
            EACH_VECTOR(k) {
                const vector own = (AT(x + k) - mean) * inverse, g = AT(gradient + k), scaled = g * AT(scale + k);
                PUT(scale_gradient + k) = AT(scale_gradient + k) + g * own;
                s[u] += scaled, t[u] += scaled * own;
            }
        float sum = total(s), along = total(t);
        for (; j < n; j++) {
            const float own = (x[j] - mean) * inverse, scaled = gradient[j] * scale[j];
            scale_gradient[j] += gradient[j] * own;
            sum += scaled, along += scaled * own;
        }
        const float level = sum / n, slope = along / n;
        for (j = 0; j + VECTOR <= n; j += VECTOR) {
            const vector own = (AT(x + j) - mean) * inverse;
            vector g = (AT(gradient + j) * AT(scale + j) - level - own * slope) * inverse;
            if (rectified) g = WHERE_POSITIVE(AT(x + j), g);
            if (gelu_slope) g *= AT(gelu_slope + (size_t)i * n + j);
            PUT(gradient + j) = g;
            PUT(bias_gradient + j) = AT(bias_gradient + j) + g;
        }
        for (; j < n; j++) {
            const float g = (gradient[j] * scale[j] - level - (x[j] - mean) * inverse * slope) * inverse;
            gradient[j] = rectified && x[j] <= 0 ? 0 : gelu_slope ? g * gelu_slope[(size_t)i * n + j] : g;
            bias_gradient[j] += gradient[j];
        }
    }
}

/* From a layer's products to its output, row by row: a row stays in the nearest cache. */
static void gelu_and_norm(const struct pass *p, int layer) {
    const int n = p->widths[layer + 1];
    for (int i = 0; i < p->batch; i++) {
        const float *const z = p->products[layer] + (size_t)i * n;
        float *const output = p->inputs[layer + 1] + (size_t)i * n;
        float *const statistics = p->norm ? p->statistics[layer] + 2 * i : NULL;
        if (p->norm == BEFORE_RELU)
            normalize(1, n, z, p->norm_scales[layer], p->norm_biases[layer], 0, statistics, output);
        gelu(n, p->norm == BEFORE_RELU ? output : z, output, NULL);
        if (p->norm == AFTER_RELU)
            normalize(1, n, output, p->norm_scales[layer], p->norm_biases[layer], 0, statistics, output);
    }
}

/* masks: NULL, or by hidden layer what its output is multiplied by. */
static void forward(const struct pass *p, const float *const *masks) {
    const int m = p->batch, last = p->depth - 1;
    for (int i = 0; i < last; i++) {
        const int k = p->widths[i], n = p->widths[i + 1];
        float *const output = p->inputs[i + 1];
        const struct end end = {.kind = p->gelu || p->norm == BEFORE_RELU ? BIAS : RELU, .bias = p->biases[i]};
        product(p->bf16 && i > 0, m, n, k, p->inputs[i], 0, p->kernels[i], 0,
                p->norm || p->gelu ? p->products[i] : output, end, p->scratch);
        if (p->gelu)
            gelu_and_norm(p, i);
        else if (p->norm)
            normalize(m, n, p->products[i], p->norm_scales[i], p->norm_biases[i], p->norm == BEFORE_RELU,
                      p->statistics[i], output);
        if (masks)
            for (size_t j = 0; j < (size_t)m * n; j++) output[j] *= masks[i][j];
    }
    const int k = p->widths[last], n = p->widths[last + 1];
    for (int i = 0; i < m; i++)
        for (int o = 0; o < n; o++) {
            const float *const x = p->inputs[last] + (size_t)i * k, *const kernel = p->kernels[last] + (size_t)o * k;
            float sum = 0;
            for (int j = 0; j < k; j++) sum += x[j] * kernel[j];
            p->output[i * n + o] = sum + p->biases[last][o];
        }
}

static void zero(float *x, size_t size) {
    for (size_t i = 0; i < size; i++) x[i] = 0;
}

/* From the gradient of a layer's output to that of its product. GELU and its slope are made again, which costs less than
   to keep them. */
static void through_gelu(const struct pass *p, int layer) {
    const int n = p->widths[layer + 1];
    float *const activated = p->scratch, *const slope = p->scratch + n, *const bias_gradient = p->bias_gradients[layer];
    for (int i = 0; i < p->batch; i++) {
        const float *const z = p->products[layer] + (size_t)i * n;
        float *const gradient = p->gradients[layer] + (size_t)i * n;
        if (!p->norm) {
            gelu(n, z, activated, slope);
            for (int j = 0; j < n; j++) gradient[j] *= slope[j], bias_gradient[j] += gradient[j];
            continue;
        }
        const float *const scale = p->norm_scales[layer], *const shift = p->norm_biases[layer];
        const float *const statistics = p->statistics[layer] + 2 * i, mean = statistics[0], inverse = statistics[1];
        float *const scale_gradient = p->norm_scale_gradients[layer], *const shift_gradient = p->norm_bias_gradients[layer];
        if (p->norm == AFTER_RELU) {
            gelu(n, z, activated, slope);
            normalize_gradient(1, n, activated, statistics, scale, 0, slope, gradient, scale_gradient, shift_gradient,
                               bias_gradient);
        } else {
            for (int j = 0; j < n; j++) activated[j] = (z[j] - mean) * inverse * scale[j] + shift[j];
            gelu(n, activated, activated, slope);
            for (int j = 0; j < n; j++) gradient[j] *= slope[j], shift_gradient[j] += gradient[j];
            normalize_gradient(1, n, z, statistics, scale, 0, NULL, gradient, scale_gradient, shift_gradient,
                               bias_gradient);
        }
    }
}

/* From the gradient of a hidden layer's output, and after ReLU where that comes last, to that of its product. */
static void through(const struct pass *p, int layer, const float *const *masks) {
    const int n = p->widths[layer + 1];
    if (masks && (p->gelu || p->norm == AFTER_RELU))
        for (size_t j = 0; j < (size_t)p->batch * n; j++) p->gradients[layer][j] *= masks[layer][j];
    if (p->gelu)
        through_gelu(p, layer);
    else if (p->norm)
        normalize_gradient(p->batch, n, p->products[layer], p->statistics[layer], p->norm_scales[layer],
                           p->norm == AFTER_RELU, NULL, p->gradients[layer], p->norm_scale_gradients[layer],
                           p->norm_bias_gradients[layer], p->bias_gradients[layer]);
}

/* gradient: of the output, [batch, out]. scale: of what passes through a hidden layer's ReLU. masks: as in forward, for
   GELU and for layer normalisation after ReLU, whose output does not tell what was dropped. kernels: whether their
   gradients are asked for; those of biases and norms are computed all the same. input_gradient: NULL, or what becomes
   that of the input. */
static void backward(const struct pass *p, const float *gradient, float scale, const float *const *masks,
                     int64_t kernels, float *input_gradient) {
    const int m = p->batch, last = p->depth - 1, outputs = p->widths[last + 1], hidden = p->widths[last];
    float *const kernel_gradient = p->kernel_gradients[last], *const bias_gradient = p->bias_gradients[last];
    float **const shift_gradients = p->norm ? p->norm_bias_gradients : p->bias_gradients; /* of what goes into ReLU */
    for (int i = 0; i < last; i++) {
        zero(p->bias_gradients[i], p->widths[i + 1]);
        if (p->norm) zero(p->norm_scale_gradients[i], p->widths[i + 1]), zero(p->norm_bias_gradients[i], p->widths[i + 1]);
    }
    zero(bias_gradient, outputs);
    zero(kernel_gradient, (size_t)outputs * hidden);
    for (int i = 0; i < m; i++) { /* few outputs: one pass over rows does it all */
        const float *const x = p->inputs[last] + (size_t)i * hidden;
        float *const back = p->gradients[last - 1] + (size_t)i * hidden, *const sum = shift_gradients[last - 1];
        zero(back, hidden);
        for (int o = 0; o < outputs; o++) {
            const float g = gradient[i * outputs + o], *const kernel = p->kernels[last] + (size_t)o * hidden;
            float *const own = kernel_gradient + (size_t)o * hidden;
            bias_gradient[o] += g;
            if (kernels)
                for (int j = 0; j < hidden; j++) own[j] += g * x[j], back[j] += g * kernel[j];
            else
                for (int j = 0; j < hidden; j++) back[j] += g * kernel[j];
        }
        if (p->gelu || p->norm == AFTER_RELU) continue;
        for (int j = 0; j < hidden; j++) back[j] = x[j] <= 0 ? 0 : back[j] * scale, sum[j] += back[j];
    }
    through(p, last - 1, masks);
    for (int i = last - 1; i >= 0; i--) {
        const int k = p->widths[i], n = p->widths[i + 1], bf16 = p->bf16 && i > 0;
        const struct end plain = {.kind = PLAIN};
        if (kernels)
            product(bf16, k, n, m, p->inputs[i], 1, p->gradients[i], 0, p->kernel_gradients[i], plain, p->scratch);
        if (i == 0) {
            if (input_gradient)
                product(0, m, k, n, p->gradients[0], 0, p->kernels[0], 1, input_gradient, plain, p->scratch);
            break;
        }
        struct end end = {RELU_GRADIENT, .output = p->inputs[i], .scale = scale, .sum = shift_gradients[i - 1]};
        if (p->gelu || p->norm == AFTER_RELU) end = plain;
        product(bf16, m, k, n, p->gradients[i], 0, p->kernels[i], 1, p->gradients[i - 1], end, p->scratch);
        through(p, i - 1, masks);
    }
}

/* A pass to be computed: backward with a gradient, else forward; the others as backward() takes them. */
struct call {
    const struct pass *pass;
    const float *const *masks;
    const float *gradient;
    double scale;
    int64_t kernels;
    float *input_gradient;
};

void compute(const struct call *calls, int64_t count) {
    for (const struct call *c = calls; c < calls + count; c++)
        if (c->gradient) backward(c->pass, c->gradient, c->scale, c->masks, c->kernels, c->input_gradient);
        else forward(c->pass, c->masks);
}

/* A thread of the process's own. A lone run gives it calls several times an update, so that it waits for the next ones
   awake, as long as an update may take; to wake it would cost as much as a tenth of a product. */
static struct {
    pthread_mutex_t used, lock;
    pthread_cond_t given;
    _Atomic(const struct call *) calls; /* NULL once they are done */
    int64_t count;
    atomic_int asleep;
    int started;
} helper = {.used = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .given = PTHREAD_COND_INITIALIZER};

enum { SPINS = 4000, AWAKE_NANOSECONDS = 3000000 };

static void wait_a_little(int spins) {
    if (spins > SPINS) { /* whoever else wants the core may have it */
        sched_yield();
        return;
    }
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void *help(void *unused) {
    for (;;) {
        const int64_t since = nanoseconds();
        for (int spins = 0; !atomic_load(&helper.calls) && nanoseconds() - since < AWAKE_NANOSECONDS; spins++)
            wait_a_little(spins);
        if (!atomic_load(&helper.calls)) {
            pthread_mutex_lock(&helper.lock);
            atomic_store(&helper.asleep, 1);
            while (!atomic_load(&helper.calls)) pthread_cond_wait(&helper.given, &helper.lock);
            atomic_store(&helper.asleep, 0);
            pthread_mutex_unlock(&helper.lock);
        }
        compute(atomic_load(&helper.calls), helper.count);
        atomic_store(&helper.calls, NULL);
    }
    return NULL;
}

/* A process that was forked has none of its parent's threads. */
static void forget_helper(void) {
    helper.used = helper.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    helper.given = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    helper.calls = NULL;
    helper.asleep = helper.started = 0;
}

static int helper_runs(void) {
    static int forgotten_by_children;
    pthread_t thread;
    sigset_t all, before;
    if (helper.started) return 1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the new thread has none: signals are the main thread's */
    const int failed = pthread_create(&thread, NULL, help, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return 0;
    pthread_detach(thread);
    if (!forgotten_by_children) forgotten_by_children = !pthread_atfork(NULL, NULL, forget_helper);
    return helper.started = 1;
}

/* The helper computes the calls, until finish() is given what this returns; where it has no thread, or works for
   another caller, they are computed here and now. */
int64_t start(const struct call *calls, int64_t count) {
    const int free = !pthread_mutex_trylock(&helper.used);
    if (!free || !helper_runs()) {
        if (free) pthread_mutex_unlock(&helper.used);
        compute(calls, count);
        return 0;
    }
    helper.count = count;
    atomic_store(&helper.calls, calls);
    if (atomic_load(&helper.asleep)) {
        pthread_mutex_lock(&helper.lock);
        pthread_cond_signal(&helper.given);
        pthread_mutex_unlock(&helper.lock);
    }
    return 1;
}

void finish(int64_t started) {
    if (!started) return;
    for (int spins = 0; atomic_load(&helper.calls); spins++) wait_a_little(spins);
    pthread_mutex_unlock(&helper.used);
}

/* A step of torch.optim.Adam; *step counts them. */
void adam(int64_t size, float *restrict weights, const float *restrict gradient, float *restrict first,
          float *restrict second, float *step, double lr, double beta1, double beta2, double eps, double decay) {
    *step += 1;
    const float toward = 1 - beta1, keep = beta2, take = 1 - beta2, shrink = decay, floor = eps;
    const float size1 = lr / (1 - pow(beta1, *step)), size2 = 1 / sqrt(1 - pow(beta2, *step));
    for (int64_t i = 0; i < size; i++) {
        const float g = gradient[i] + shrink * weights[i];
        first[i] += toward * (g - first[i]);
        second[i] = keep * second[i] + take * g * g;
        weights[i] -= size1 * first[i] / (sqrtf(second[i]) * size2 + floor);
    }
}

void follow(int64_t size, float *restrict target, const float *restrict weights, double polyak) {
    const float toward = polyak;
    for (int64_t i = 0; i < size; i++) target[i] += toward * (weights[i] - target[i]);
}

/* The gradients of losses.py and value_losses.py, for one member. */

void smaller(int64_t size, const float *q1, const float *q2, float *q) {
    for (int64_t i = 0; i < size; i++) q[i] = q1[i] <= q2[i] || isnan(q1[i]) ? q1[i] : q2[i];
}

/* Those of V's losses with respect to v [size]. q: [size], and of the Gumbel loss [size * (1 + further)], after the
   first `size` rows `further` for each v. */

void expectile_gradient(int64_t size, int64_t further, const float *q, const float *v, double tau, double unused,
                        float *gradient) {
    const float below = (1 - tau) * -2 / size, above = tau * -2 / size;
    for (int64_t i = 0; i < size; i++) {
        const float difference = q[i] - v[i];
        gradient[i] = (difference < 0 ? below : above) * difference;
    }
}

void sparse_gradient(int64_t size, int64_t further, const float *q, const float *v, double alpha, double unused,
                     float *gradient) {
    const float twice = 2 * alpha, factor = 1 / (alpha * size);
    for (int64_t i = 0; i < size; i++) {
        const float z = (q[i] - v[i]) / twice + 1;
        gradient[i] = (1 - (z <= 0 ? 0 : z)) * factor;
    }
}

static float greatest(float x, float y) { return x <= y ? y : x; } /* x where it is NaN */

void exponential_gradient(int64_t size, int64_t further, const float *q, const float *v, double alpha, double max_clip,
                          float *gradient) {
    const float scale = alpha, clip = max_clip, factor = 1 / (alpha * size);
    float offset = -1;
    for (int64_t i = 0; i < size; i++) {
        const float z = (q[i] - v[i]) / scale;
        offset = greatest(z > clip ? clip : z, offset);
    }
    const float pushed = expf(-offset);
    for (int64_t i = 0; i < size; i++) {
        const float z = (q[i] - v[i]) / scale;
        gradient[i] = (z >= clip ? pushed : pushed - expf(z - offset)) * factor;
    }
}

void gumbel_gradient(int64_t size, int64_t further, const float *q, const float *v, double temperature,
                     double max_clip, float *gradient) {
    const int64_t rows = size * (1 + further);
    const float scale = temperature, clip = max_clip, factor = 1 / (temperature * rows);
    float offset = -1;
    for (int64_t i = 0; i < rows; i++) {
        const float z = (q[i] - v[i < size ? i : (i - size) / further]) / scale;
        offset = greatest(z > clip ? clip : z, offset);
    }
    const float pushed = expf(-offset);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t of = i < size ? i : (i - size) / further;
        const float z = (q[i] - v[of]) / scale, own = z >= clip ? 0 : (pushed - expf(z - offset)) * factor;
        gradient[of] = i < size ? own : gradient[of] + own;
    }
}

/* The advantage and the policy's weights, which are equation 7's, or with `linear` the advantage itself where it is
   positive; at most `cap`. */
void weigh(int64_t size, const float *q, const float *v, int64_t linear, double beta, double cap, float *advantage,
           float *weights) {
    const float temperature = beta, most = cap;
    for (int64_t i = 0; i < size; i++) {
        advantage[i] = q[i] - v[i];
        const float weight = !linear ? expf(temperature * advantage[i]) : advantage[i] <= 0 ? 0 : advantage[i];
        weights[i] = weight > most ? most : weight;
    }
}

/* What Q is regressed on, equation 6. */
void q_target(int64_t size, const float *next_v, const float *rewards, const float *masks, double discount,
              float *target) {
    const float gamma = discount;
    for (int64_t i = 0; i < size; i++) target[i] = rewards[i] + gamma * masks[i] * next_v[i];
}

/* q [size] of one network. The error counts up to `limit`, beyond which the loss grows linearly. */
void q_gradient(int64_t size, const float *q, const float *target, double by, double limit, float *gradient) {
    const float factor = by, most = limit;
    for (int64_t i = 0; i < size; i++) {
        const float error = q[i] - target[i];
        gradient[i] = (error > most ? most : error < -most ? -most : error) * factor;
    }
}

/* Equation 7 with respect to what the mean [size, dim] is before tanh, if squash, and to log_std [dim], where it lies
   within its range; log_std NULL: for a deterministic policy, log_std_gradient NULL: for a log_std that stays. */
void policy_gradient(int64_t size, int64_t dim, const float *weights, const float *mean, const float *actions,
                     int64_t squash, const float *log_std, double lowest, double highest, float *gradient,
                     float *log_std_gradient) {
    for (int64_t j = 0; j < dim; j++) {
        const float low = lowest, high = highest, raw = log_std ? log_std[j] : 0;
        const float inverse = log_std ? expf(-(raw < low ? low : raw > high ? high : raw)) : 1;
        const float factor = log_std ? -1.0f / size : -2.0f / size;
        float sum = 0;
        for (int64_t i = 0; i < size; i++) {
            const float m = mean[i * dim + j], share = weights[i] * factor;
            const float normalized = (actions[i * dim + j] - m) * inverse;
            gradient[i * dim + j] = normalized * inverse * share * (squash ? 1 - m * m : 1);
            sum += share * (normalized * normalized - 1);
        }
        if (log_std_gradient) log_std_gradient[j] = raw < low || raw > high ? 0 : sum;
    }
}
