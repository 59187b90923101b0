/* A linear sketch (Charikar, Chen and Farach-Colton 2002, with one row of counters): every element is added to one of 1,024
 * numbers, with a hashed sign. The dot product of two tensors is then, up to an error of |a||b|/32, that of their sketches.
 * An element's place decides its number and its sign, so equal places always meet. Rows of 1,024 elements are rotated by a
 * hashed offset: inside a row no two elements share a number, so a row is added in two runs without any look-up.
 * weighbridge.reference.sketch is the definition. Included by weigh_level.c. */
#include "weighbridge_sketch.h"

static inline uint32_t mixed(uint32_t h) /* MurmurHash3's finalizer, without its last shift: the upper bits are used */
{
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    return h * 0xc2b2ae35u;
}

/* Elements from `column` of a row on, side by side in the sketch too. */
static void add_signed_f32(const bits_f32 *x, int n, uint32_t row, int column, double *restrict to)
{
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const uint32_t bits = x[i] ^ (mixed(row + (uint32_t)(column + i) * 0x9e3779b9u) & 0x80000000u);
        float value;
        memcpy(&value, &bits, sizeof value);
        to[i] += (double)value;
    }
}

static void add_signed_f64(const bits_f64 *x, int n, uint32_t row, int column, double *restrict to)
{
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const uint64_t bits = x[i] ^ (uint64_t)(mixed(row + (uint32_t)(column + i) * 0x9e3779b9u) & 0x80000000u) << 32;
        double value;
        memcpy(&value, &bits, sizeof value);
        to[i] += value;
    }
}

static void sum_f32(const element_f32 *x, int n, wb_sketched *item)
{
    double sum_sq = 0, sum_abs = 0;
#pragma omp simd reduction(+ : sum_sq, sum_abs)
    for (int i = 0; i < n; i++) {
        const double v = x[i];
        sum_sq += v * v;
        sum_abs += fabs(v);
    }
    item->sum_sq += sum_sq;
    item->sum_abs += sum_abs;
}

static void sum_f64(const element_f64 *x, int n, wb_sketched *item)
{
    double sum_sq = 0, sum_abs = 0;
#pragma omp simd reduction(+ : sum_sq, sum_abs)
    for (int i = 0; i < n; i++) {
        sum_sq += x[i] * x[i];
        sum_abs += fabs(x[i]);
    }
    item->sum_sq += sum_sq;
    item->sum_abs += sum_abs;
}

static void add_row(const void *x, int n, int is_double, int64_t number, double *to)
{
    const uint32_t row = mixed((uint32_t)number + 0x9e3779b9u);
    const int offset = (int)(row >> 22), whole = WB_SKETCH - offset, head = n < whole ? n : whole;
    if (is_double) {
        add_signed_f64(x, head, row, 0, to + offset);
        add_signed_f64((const bits_f64 *)x + head, n - head, row, head, to);
    } else {
        add_signed_f32(x, head, row, 0, to + offset);
        add_signed_f32((const bits_f32 *)x + head, n - head, row, head, to);
    }
}

static void copy_wide(const void *x, int n, int is_double, double *to)
{
    if (is_double)
        memcpy(to, x, (size_t)n * sizeof *to);
    else
        for (int i = 0; i < n; i++)
            to[i] = (double)((const element_f32 *)x)[i];
}

void JOIN(wb_sketch_one, WB_LEVEL)(wb_sketched *item)
{
    double room[WB_SKETCH];
    double *const kept = (double *)(uintptr_t)item->kept;
    const int is_double = item->dtype == WB_F64, is_whole = item->numbers == item->count;
    item->sum_sq = item->sum_abs = 0;
    if (kept && !is_whole)
        memset(kept, 0, WB_SKETCH * sizeof *kept);
    for (int64_t first = 0; first < item->count; first += WB_SKETCH) {
        const int n = (int)(item->count - first < WB_SKETCH ? item->count - first : WB_SKETCH);
        const void *x = load(item->address, first, n, item->dtype, room);
        if (is_double)
            sum_f64(x, n, item);
        else
            sum_f32(x, n, item);
        if (kept && is_whole)
            copy_wide(x, n, is_double, kept + first);
        else if (kept)
            add_row(x, n, is_double, first / WB_SKETCH, kept);
    }
}
