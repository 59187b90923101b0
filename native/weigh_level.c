/* One instruction level of the kernel: compiled once for each (build.py), chosen at load (weighbridge_kernel.c).
 * Everything here but the tables of functions is static, so no code of a higher level can be linked into a lower one. */
#include <math.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "weighbridge_kernel.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

typedef float element_f32 __attribute__((aligned(1), may_alias));
typedef double element_f64 __attribute__((aligned(1), may_alias));
typedef uint16_t bits_half __attribute__((aligned(1), may_alias));

/* Doubles as wide as this level's registers, in the way that gcc and clang share. */
#if defined(__AVX512F__)
#define WB_LANES 8
#elif defined(__AVX2__)
#define WB_LANES 4
#else
#define WB_LANES 2
#endif
typedef double doubles_vector __attribute__((vector_size(8 * WB_LANES)));
typedef uint64_t words_vector __attribute__((vector_size(8 * WB_LANES)));
typedef float floats_vector __attribute__((vector_size(4 * WB_LANES)));

#define WIDE_RANGE 24 /* powers of two: where they are more, to count one by one is quicker */
#define AHEAD (2 * WB_BLOCK) /* elements */
#define MANY 128      /* elements: from here on four tables are quicker than one, which is quicker to clear */

#if defined(__AVX512BW__)
/* Compares 64 elements at once with every bin that may occur, on both sides, and counts the bits. What fills the last 64 has
 * a bin that is none of these. */
static inline void compare_bins(const uint8_t *bin, int n, int low, int high, uint32_t *counts)
{
    for (int e = low; e <= high; e++) {
        const __m512i above = _mm512_set1_epi8((char)(WB_SIDE(0) + e)), below = _mm512_set1_epi8((char)(WB_SIDE(0) - 1 - e));
        int n_above = 0, n_below = 0;
        for (int i = 0; i < n; i += 64) {
            const __m512i bins = _mm512_load_si512(bin + i);
            n_above += __builtin_popcountll(_mm512_cmpeq_epi8_mask(bins, above));
            n_below += __builtin_popcountll(_mm512_cmpeq_epi8_mask(bins, below));
        }
        counts[WB_SIDE(0) + e] += (uint32_t)n_above;
        counts[WB_SIDE(0) - 1 - e] += (uint32_t)n_below;
    }
}
#endif

#if defined(__AVX512BW__)
/* Words of which each holds a float's sign (all upper bits) and exponent (the lower eight): their bins. */
static inline __m512i bins_of_words(__m512i words)
{
    const __m512i exponents = _mm512_and_si512(words, _mm512_set1_epi16(255));
    const __m512i octaves = _mm512_sub_epi16(exponents, _mm512_set1_epi16(127 - 41)), signs = _mm512_srai_epi16(words, 15);
    return _mm512_add_epi16(_mm512_xor_si512(octaves, signs), _mm512_set1_epi16(WB_SIDE(0)));
}

/* The bins of 64 floats, in some order. Right inside the histogram's range; zeros get bins that are outside of it. */
static inline __m512i bins_of_floats(const __m512i x[4])
{
    const __m512i front = _mm512_packs_epi32(_mm512_srai_epi32(x[0], 23), _mm512_srai_epi32(x[1], 23));
    const __m512i back = _mm512_packs_epi32(_mm512_srai_epi32(x[2], 23), _mm512_srai_epi32(x[3], 23));
    return _mm512_packus_epi16(bins_of_words(front), bins_of_words(back));
}

/* The k-th 16 floats that are looked at, beyond the end zeros. `line` as in count_histogram. */
static inline __m512i looked_at(const element_f32 *x, int n, int line, int k)
{
    const int at = !line ? k * 16 : line == 16 ? k * 16 * WB_STRIDE : (k >> 1) * 32 * WB_STRIDE + (k & 1) * 16, left = n - at;
    const __mmask16 which = left >= 16 ? (__mmask16)-1 : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
    return _mm512_maskz_loadu_epi32(which, x + at);
}

/* The smallest power of two of the floats that are looked at, zeros left out: bits. */
static inline uint32_t least_looked_at(const element_f32 *x, int n, int line, int count)
{
    __m512i least = _mm512_set1_epi32(-1);
    for (int k = 0; k * 16 < count; k++) { /* zeros become the largest */
        const __m512i magnitude = _mm512_and_si512(looked_at(x, n, line, k), _mm512_set1_epi32(0x7fffffff));
        least = _mm512_min_epu32(least, _mm512_sub_epi32(magnitude, _mm512_set1_epi32(1)));
    }
    return _mm512_reduce_min_epu32(least) + 1;
}

/* Finds the bins of finite floats with one shift each and counts them by comparing. `count`: of elements looked at. */
static inline void compare_floats(const element_f32 *x, int n, int line, int count, int low, int high, uint32_t *counts)
{
    uint8_t bin[WB_BLOCK] __attribute__((aligned(64)));
    for (int k = 0; k * 16 < count; k += 4) {
        const __m512i four[4] = {looked_at(x, n, line, k), looked_at(x, n, line, k + 1), looked_at(x, n, line, k + 2),
                                 looked_at(x, n, line, k + 3)};
        _mm512_store_si512(bin + k * 16, bins_of_floats(four));
    }
    compare_bins(bin, count, low, high, counts);
}
#endif

static inline void add_one_by_one(const uint8_t *bin, int n, wb_row *row)
{
    uint32_t(*table)[WB_TABLE] = row->bins;
    int i = 0;
    if (n >= MANY && row->tables == 1) {
        memset(table[1], 0, (WB_TABLES - 1) * sizeof table[0]);
        row->tables = WB_TABLES;
    }
    if (row->tables == WB_TABLES)
        for (; i + 8 <= n; i += 8) {
            uint64_t eight; /* one load instead of eight; which byte is which does not matter */
            memcpy(&eight, bin + i, 8);
            table[0][eight & 255]++;
            table[1][eight >> 8 & 255]++;
            table[2][eight >> 16 & 255]++;
            table[3][eight >> 24 & 255]++;
            table[0][eight >> 32 & 255]++;
            table[1][eight >> 40 & 255]++;
            table[2][eight >> 48 & 255]++;
            table[3][eight >> 56]++;
        }
    for (; i < n; i++)
        table[0][bin[i]]++;
}

/* `low` to `high`: the powers of two that may occur, counted from the lowest bin of a side. `bin` has room for whole
 * registers. Of few elements comparing takes longer. */
static inline void add_to_bins(uint8_t *bin, int n, int is_whole, int low, int high, wb_row *row)
{
#if defined(__AVX512BW__)
    if (is_whole && high - low <= WIDE_RANGE) {
        memset(bin + n, WB_NO_BIN, (size_t)(-n & 63));
        compare_bins(bin, n, low, high, row->bins[0]);
        return;
    }
#endif
    (void)is_whole, (void)low, (void)high;
    add_one_by_one(bin, n, row);
}

/* One instruction that converts while it loads. gcc 12 makes two halves and puts them together out of a plain conversion. */
static inline doubles_vector widened(const element_f32 *x)
{
#if defined(__AVX512F__)
    return (doubles_vector)_mm512_cvtps_pd(_mm256_loadu_ps((const float *)x));
#elif defined(__AVX2__)
    return (doubles_vector)_mm256_cvtps_pd(_mm_loadu_ps((const float *)x));
#else
    floats_vector narrow;
    memcpy(&narrow, x, sizeof narrow);
    return __builtin_convertvector(narrow, doubles_vector);
#endif
}

static inline double total(doubles_vector x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_pd((__m512d)x);
#else
    double sum = x[0];
    for (int i = 1; i < WB_LANES; i++)
        sum += x[i];
    return sum;
#endif
}

typedef struct {
    doubles_vector sum, sum_abs, sum_sq;
} lanes;

static inline void add_lanes(lanes *to, doubles_vector x)
{
    to->sum += x;
    to->sum_abs += (doubles_vector)((words_vector)x & ~(uint64_t)0 >> 1);
    to->sum_sq += x * x;
}

#if defined(__AVX512F__)
/* Smallest and largest value, smallest magnitude: floating-point extremes run in two units here, those of integers in one. */
typedef struct {
    __m512 low, high, least;
} range;

static inline void meet(range *r, __mmask16 which, __m512 x)
{
    r->low = _mm512_mask_min_ps(r->low, which, r->low, x);
    r->high = _mm512_mask_max_ps(r->high, which, r->high, x);
    r->least = _mm512_mask_range_ps(r->least, which, r->least, x, 0b1010);
}

static inline int32_t bits_of(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
#endif

#define T float
#define B int32_t
#define U uint32_t
#define INFINITE 0x7f800000
#define MANTISSA 23
#define BIAS 127
#define NAME(x) JOIN(x, f32)
#include "weigh_block.h"
#undef T
#undef B
#undef U
#undef INFINITE
#undef MANTISSA
#undef BIAS
#undef NAME

#define T double
#define B int64_t
#define U uint64_t
#define INFINITE 0x7ff0000000000000
#define MANTISSA 52
#define BIAS 1023
#define NAME(x) JOIN(x, f64)
#include "weigh_block.h"

#define NORMAL_F32 0x00800000 /* bits of the smallest normal float, */
#define NORMAL_F16 0x38800000 /* of the smallest normal half as a float, */
#define NORMAL_F64 0x0010000000000000

/* Half precision is widened to float, exactly, by its bits: no flush-to-zero mode can reach the subnormals. */
static void widen_f16(const bits_half *from, int n, bits_f32 *to)
{
#pragma omp simd
    for (int i = 0; i < n; i++) {
        uint32_t half = from[i], magnitude = half & 0x7fff, sign = (half & 0x8000) << 16;
        float small = (float)(int32_t)magnitude * 0x1p-24f; /* right where the half is subnormal or zero */
        uint32_t small_bits;
        memcpy(&small_bits, &small, 4);
        uint32_t normal_bits = (magnitude << 13) + ((127 - 15) << 23);
        uint32_t infinite_bits = 0x7f800000 | magnitude << 13;
        uint32_t bits = magnitude < 0x0400 ? small_bits : magnitude < 0x7c00 ? normal_bits : infinite_bits;
        to[i] = bits | sign;
    }
}

static void widen_bf16(const bits_half *from, int n, bits_f32 *to)
{
#pragma omp simd
    for (int i = 0; i < n; i++)
        to[i] = (uint32_t)from[i] << 16;
}

/* A block of a tensor, ready for the loops: where it lies, or widened into `room`. */
static const void *load(uint64_t address, int64_t first, int n, int dtype, void *room)
{
    if (dtype == WB_F32)
        return (const float *)(uintptr_t)address + first;
    if (dtype == WB_F64)
        return (const double *)(uintptr_t)address + first;
    const void *from = (const uint16_t *)(uintptr_t)address + first;
    if (dtype == WB_F16)
        widen_f16(from, n, room);
    else
        widen_bf16(from, n, room);
    return room;
}

static inline int size_of(int dtype)
{
    return dtype == WB_F64 ? 8 : dtype == WB_F32 ? 4 : 2;
}

static int line_of(int64_t count, int dtype)
{
    return count < WB_WHOLE_BELOW ? 0 : WB_LINE / size_of(dtype);
}

static inline const void *weigh(const void *x, int n, int dtype, int line, void *clean, wb_row *row)
{
    if (dtype == WB_F64)
        return weigh_f64(x, n, NORMAL_F64, line, clean, row);
    return weigh_f32(x, n, dtype == WB_F16 ? NORMAL_F16 : NORMAL_F32, line, clean, row);
}

/* after - before, in float for float and half precision, in double for double. */
static void subtract(const void *after, const void *before, int n, int dtype, void *update)
{
    if (dtype == WB_F64) {
        const element_f64 *a = after, *b = before;
        double *u = update;
#pragma omp simd
        for (int i = 0; i < n; i++)
            u[i] = a[i] - b[i];
        return;
    }
    const element_f32 *a = after, *b = before;
    float *u = update;
#pragma omp simd
    for (int i = 0; i < n; i++)
        u[i] = a[i] - b[i];
}

static double dot_up(const void *update, const void *before, int n, int dtype)
{
    double sum = 0;
    if (dtype == WB_F64) {
        const element_f64 *u = update, *w = before;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < n; i++)
            sum += u[i] * w[i];
        return sum;
    }
    const element_f32 *u = update, *w = before;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++)
        sum += (double)u[i] * (double)w[i];
    return sum;
}

#define CROSS(G, W)                                                                          \
    do {                                                                                     \
        const G *g = gradient;                                                               \
        const W *w = before, *u = update;                                                    \
        _Pragma("omp simd reduction(+ : gp, gu, up)") for (int i = 0; i < n; i++)            \
        {                                                                                    \
            double dg = g[i], dw = w[i], du = u[i];                                          \
            gp += dg * dw;                                                                   \
            gu += dg * du;                                                                   \
            up += du * dw;                                                                   \
        }                                                                                    \
    } while (0)

/* Products over blocks from which NaN and infinity have been taken (a zero in their place adds nothing). */
static void add_cross(const void *gradient, int wide_gradient, const void *update, const void *before, int n, int dtype,
                      wb_cross *cross)
{
    double gp = 0, gu = 0, up = 0;
    if (!gradient)
        up = dot_up(update, before, n, dtype);
    else if (wide_gradient && dtype == WB_F64)
        CROSS(element_f64, element_f64);
    else if (wide_gradient)
        CROSS(element_f64, element_f32);
    else if (dtype == WB_F64)
        CROSS(element_f32, element_f64);
    else
        CROSS(element_f32, element_f32);
    cross->gradient_parameter += gp;
    cross->gradient_update += gu;
    cross->update_parameter += up;
}

#define LOST(G, W, NOT_SIGN_G, NOT_SIGN_W)                                                   \
    do {                                                                                     \
        const G *g = gradient;                                                               \
        const W *u = update;                                                                 \
        _Pragma("omp simd reduction(+ : lost)") for (int i = 0; i < n; i++)                  \
            lost += ((g[i] & NOT_SIGN_G) != 0) & ((u[i] & NOT_SIGN_W) == 0);                 \
    } while (0)

/* Elements that had a gradient and did not move. By bits: NaN is a gradient that is not 0. */
static int64_t count_lost(const void *gradient, int wide_gradient, const void *update, int n, int dtype)
{
    int32_t lost = 0;
    const uint64_t wide = ~(uint64_t)0 >> 1;
    const uint32_t narrow = ~(uint32_t)0 >> 1;
    if (wide_gradient && dtype == WB_F64)
        LOST(bits_f64, bits_f64, wide, wide);
    else if (wide_gradient)
        LOST(bits_f64, bits_f32, wide, narrow);
    else if (dtype == WB_F64)
        LOST(bits_f32, bits_f64, narrow, wide);
    else
        LOST(bits_f32, bits_f32, narrow, narrow);
    return lost;
}

#define EXTREMES(x) \
    int32_t x##_smax = INT32_MIN, x##_smin = INT32_MAX; \
    uint32_t x##_umax = 0, x##_umin = UINT32_MAX
#define MEET(x, value) \
    do { \
        float met = value; \
        uint32_t u; \
        memcpy(&u, &met, 4); \
        int32_t s = (int32_t)u; \
        x##_smax = s > x##_smax ? s : x##_smax; \
        x##_smin = s < x##_smin ? s : x##_smin; \
        x##_umax = u > x##_umax ? u : x##_umax; \
        x##_umin = u < x##_umin ? u : x##_umin; \
    } while (0)

/* Of a block of three tensors. */
typedef struct {
    lanes w, g, u;
    doubles_vector gp, gu, up;
} sums_together;

/* Elements of as many lanes as there are. */
static inline void add_together(sums_together *to, const element_f32 *before, const element_f32 *gradient, const float *update)
{
    const doubles_vector w = widened(before), g = widened(gradient), u = widened(update);
    add_lanes(&to->w, w);
    add_lanes(&to->g, g);
    add_lanes(&to->u, u);
    to->gp += g * w;
    to->gu += g * u;
    to->up += u * w;
}

/* The next block comes while this one is summed. */
static inline void ask_for_lines(const element_f32 *before, const element_f32 *after, const element_f32 *gradient)
{
    __builtin_prefetch(before + WB_BLOCK, 1);
    __builtin_prefetch(after + WB_BLOCK);
    __builtin_prefetch(gradient + WB_BLOCK);
}

static inline sums_f32 add_rest(lanes *lanes, const element_f32 *x, int from, int n)
{
    sums_f32 sums = {total(lanes->sum), total(lanes->sum_abs), total(lanes->sum_sq)};
    for (int i = from; i < n; i++) {
        const double value = x[i];
        sums.sum += value;
        sums.sum_abs += fabs(value);
        sums.sum_sq += value * value;
    }
    return sums;
}

#if defined(__AVX512F__)
/* Up to 16 elements. Fills `update`. */
static inline void subtract_and_meet(const element_f32 *before, const element_f32 *after, const element_f32 *gradient,
                                     __mmask16 which, float *update, range met[3])
{
    const __m512 x = _mm512_maskz_loadu_ps(which, before);
    const __m512 difference = _mm512_sub_ps(_mm512_maskz_loadu_ps(which, after), x);
    _mm512_mask_storeu_ps(update, which, difference);
    meet(&met[0], which, x);
    meet(&met[1], which, _mm512_maskz_loadu_ps(which, gradient));
    meet(&met[2], which, difference);
}

/* Fills `update`, finds the extremes of all three, and sums the elements before the one that is returned. */
static inline int look_and_sum(const element_f32 *before, const element_f32 *after, const element_f32 *gradient, int n,
                               float *update, extremes_f32 found[3], sums_together *sums)
{
    const __m512 most = _mm512_set1_ps(INFINITY), none = _mm512_set1_ps(-INFINITY);
    range met[3] = {{most, none, most}, {most, none, most}, {most, none, most}};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        ask_for_lines(before + i, after + i, gradient + i);
        subtract_and_meet(before + i, after + i, gradient + i, (__mmask16)-1, update + i, met);
        add_together(sums, before + i, gradient + i, update + i);
        add_together(sums, before + i + 8, gradient + i + 8, update + i + 8);
    }
    if (i < n) {
        const __mmask16 which = (__mmask16)((1u << (n - i)) - 1);
        subtract_and_meet(before + i, after + i, gradient + i, which, update + i, met);
        float rest[3][16]; /* zeros behind them add nothing */
        _mm512_storeu_ps(rest[0], _mm512_maskz_loadu_ps(which, before + i));
        _mm512_storeu_ps(rest[1], _mm512_maskz_loadu_ps(which, gradient + i));
        _mm512_storeu_ps(rest[2], _mm512_maskz_loadu_ps(which, update + i));
        add_together(sums, rest[0], rest[1], rest[2]);
        add_together(sums, rest[0] + 8, rest[1] + 8, rest[2] + 8);
    }
    for (int r = 0; r < 3; r++)
        found[r] = extremes_of_f32(&met[r]);
    return n;
}
#else
/* Fills `update`, and finds the extremes of all three. */
static inline void subtract_and_look(const element_f32 *restrict before, const element_f32 *restrict after,
                                     const element_f32 *restrict gradient, int n, float *restrict update,
                                     extremes_f32 found[3])
{
    EXTREMES(w);
    EXTREMES(g);
    EXTREMES(u);
#pragma omp simd reduction(max : w_smax, w_umax, g_smax, g_umax, u_smax, u_umax) \
    reduction(min : w_smin, w_umin, g_smin, g_umin, u_smin, u_umin)
    for (int i = 0; i < n; i++) {
        const float difference = after[i] - before[i];
        update[i] = difference;
        MEET(w, before[i]);
        MEET(g, gradient[i]);
        MEET(u, difference);
    }
    found[0] = (extremes_f32){w_smax, w_smin, w_umax, w_umin};
    found[1] = (extremes_f32){g_smax, g_smin, g_umax, g_umin};
    found[2] = (extremes_f32){u_smax, u_smin, u_umax, u_umin};
}

/* As above; in two loops, because there are fewer registers. */
static inline int look_and_sum(const element_f32 *before, const element_f32 *after, const element_f32 *gradient, int n,
                               float *update, extremes_f32 found[3], sums_together *sums)
{
    subtract_and_look(before, after, gradient, n, update, found);
    int i = 0;
    for (; i + WB_LANES <= n; i += WB_LANES) {
        if (i % (WB_LINE / 4) == 0)
            ask_for_lines(before + i, after + i, gradient + i);
        add_together(sums, before + i, gradient + i, update + i);
    }
    return i;
}
#endif

/* The usual case again, a third faster: float parameter and gradient, nothing but finite numbers. All three rows and the
 * cross terms are summed in one loop, so each element is converted to double once. Fills `update`; returns 0, with
 * nothing added, where NaN or infinity is in the block: then, and only then, a sum of squares is not finite. */
static int weigh_together(const void *before, const void *after, const void *gradient, int n, int line, float *update,
                          wb_row rows[3], wb_cross *cross)
{
    const element_f32 *const bw = before, *const bg = gradient;
    extremes_f32 found[3];
    sums_together sums = {0};
    const int whole = look_and_sum(bw, after, bg, n, update, found, &sums);
    const sums_f32 w_sums = add_rest(&sums.w, bw, whole, n), g_sums = add_rest(&sums.g, bg, whole, n),
                   u_sums = add_rest(&sums.u, update, whole, n);
    if (!isfinite(w_sums.sum_sq + g_sums.sum_sq + u_sums.sum_sq))
        return 0;
    for (int i = whole; i < n; i++) {
        const double w = bw[i], g = bg[i], u = update[i];
        cross->gradient_parameter += g * w;
        cross->gradient_update += g * u;
        cross->update_parameter += u * w;
    }
    add_block_f32(before, n, NORMAL_F32, line, found[0], w_sums, &rows[0]);
    add_block_f32(gradient, n, NORMAL_F32, line, found[1], g_sums, &rows[1]);
    const int64_t still = rows[2].zero;
    add_block_f32((const void *)update, n, NORMAL_F32, line, found[2], u_sums, &rows[2]);
    if (rows[2].zero != still)
        cross->lost += count_lost(gradient, 0, update, n, WB_F32);
    cross->gradient_parameter += total(sums.gp);
    cross->gradient_update += total(sums.gu);
    cross->update_parameter += total(sums.up);
    return 1;
}

/* One block of a step, whatever the dtypes and whatever is in it. */
static void weigh_apart(const wb_item *item, int64_t first, int n, int line, wb_row rows[3], wb_cross *cross)
{
    double before_room[WB_BLOCK], after_room[WB_BLOCK], gradient_room[WB_BLOCK], update[WB_BLOCK], clean[3][WB_BLOCK];
    const int dtype = item->dtype, wide = item->gradient_dtype == WB_F64;
    /* the update is a float (or double), whatever it came from, but looks at the tensor's own lines */
    const int update_dtype = dtype == WB_F64 ? WB_F64 : WB_F32;
    const void *before = load(item->snapshot, first, n, dtype, before_room);
    const void *after = load(item->parameter, first, n, dtype, after_room);
    subtract(after, before, n, dtype, update);
    const void *w = weigh(before, n, dtype, line, clean[0], &rows[0]);
    const int64_t still = rows[2].zero;
    const void *u = weigh(update, n, update_dtype, line, clean[2], &rows[2]);
    const void *g = NULL;
    if (item->gradient) {
        const void *gradient = load(item->gradient, first, n, item->gradient_dtype, gradient_room);
        g = weigh(gradient, n, item->gradient_dtype, line_of(item->count, item->gradient_dtype), clean[1], &rows[1]);
        if (rows[2].zero != still)
            cross->lost += count_lost(gradient, wide, update, n, dtype);
    }
    add_cross(g, wide, u, w, n, dtype, cross);
}

static void start(wb_row *row, int histogram)
{
    row->nan = row->pos_inf = row->neg_inf = row->zero = row->subnormal = row->looked_at = 0;
    row->min = INFINITY;
    row->max = -INFINITY;
    row->sum = row->sum_abs = row->sum_sq = 0;
    row->histogram = histogram;
    row->octave = histogram == 0 ? 0 : WB_OCTAVES + 1;
    row->tables = histogram > 0 ? WB_TABLES : histogram < 0 ? 0 : 1;
    memset(row->bins, 0, (size_t)row->tables * sizeof row->bins[0]);
}

/* Asks for a block that comes later. Processors look ahead on their own only up to the end of a page, and a block is one. */
static inline void ask_for(const void *block, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += WB_LINE)
        __builtin_prefetch((const char *)block + at, 0, 2);
}

static void weigh_alone(const wb_item *item, int64_t begin, int64_t end, wb_row *row)
{
    double room[WB_BLOCK], clean[WB_BLOCK];
    const int line = line_of(item->count, item->dtype);
    for (int64_t first = begin; first < end; first += WB_BLOCK) {
        const int n = (int)(end - first < WB_BLOCK ? end - first : WB_BLOCK);
        if (line && first + AHEAD + WB_BLOCK <= item->count)
            ask_for((const char *)(uintptr_t)item->parameter + (first + AHEAD) * size_of(item->dtype), WB_BLOCK * size_of(item->dtype));
        weigh(load(item->parameter, first, n, item->dtype, room), n, item->dtype, line, clean, row);
    }
}

/* Parameter before, gradient, update and cross terms, and the snapshot refreshed, all while the block is in cache. */
static void weigh_step(const wb_item *item, int64_t begin, int64_t end, wb_row rows[3], wb_cross *cross)
{
    float update[WB_BLOCK];
    const int dtype = item->dtype, size = size_of(dtype), line = line_of(item->count, dtype);
    const int usual = dtype == WB_F32 && item->gradient && item->gradient_dtype == WB_F32;
    for (int64_t first = begin; first < end; first += WB_BLOCK) {
        const int n = (int)(end - first < WB_BLOCK ? end - first : WB_BLOCK);
        char *before = (char *)(uintptr_t)item->snapshot + first * size;
        const char *after = (const char *)(uintptr_t)item->parameter + first * size;
        const char *gradient = (const char *)(uintptr_t)item->gradient + first * size;
        if (!usual || !weigh_together(before, after, gradient, n, line, update, rows, cross))
            weigh_apart(item, first, n, line, rows, cross);
        memcpy(before, after, (size_t)(n * size));
    }
}

static void begin_item(const wb_item *item, wb_row rows[3], wb_cross *cross)
{
    start(&rows[0], item->histogram);
    if (!item->snapshot)
        return;
    start(&rows[2], item->histogram);
    if (item->gradient)
        start(&rows[1], item->histogram);
    cross->lost = 0;
}

static void weigh_piece(const wb_item *item, int64_t first, int64_t end, wb_row rows[3], wb_cross *cross)
{
    for (int r = 0; r < 3; r++)
        rows[r].sum = rows[r].sum_abs = rows[r].sum_sq = 0;
    cross->gradient_parameter = cross->gradient_update = cross->update_parameter = 0;
    if (item->snapshot)
        weigh_step(item, first, end, rows, cross);
    else
        weigh_alone(item, first, end, &rows[0]);
}

const wb_item_level JOIN(wb_item_level, WB_LEVEL) = {begin_item, weigh_piece};

#include "weigh_output.h"
#include "weigh_sketch.h"
