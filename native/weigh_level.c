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

#define AHEAD (2 * WB_BLOCK) /* elements */

#include "weigh_lanes.h"
#include "weigh_bins.h"

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

#include "weigh_together.h"

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
