/* The loops over what a module gives, for one instruction level. Included by weigh_level.c, whose blocks they use. */
#include "weighbridge_output.h"

/* By the bits: an exponent of all ones, in the tensor's own dtype. No sum is taken, so nothing overflows. */
#define NONFINITE(U, T, MASK)                                                                       \
    do {                                                                                            \
        const T *bits = x->data;                                                                    \
        for (int64_t first = 0; first < x->count; first += 4 * WB_BLOCK) {                          \
            const int n = (int)(x->count - first < 4 * WB_BLOCK ? x->count - first : 4 * WB_BLOCK); \
            U most = 0;                                                                             \
            _Pragma("omp simd reduction(max : most)") for (int i = 0; i < n; i++)                   \
            {                                                                                       \
                const U exponent = (U)(bits[first + i] & (MASK));                                   \
                most = exponent > most ? exponent : most;                                           \
            }                                                                                       \
            if (most == (MASK))                                                                     \
                return 1;                                                                           \
        }                                                                                           \
        return 0;                                                                                   \
    } while (0)

static int any_nonfinite(const wb_numbers *x)
{
    if (x->dtype == WB_F32)
        NONFINITE(uint32_t, bits_f32, 0x7f800000u);
    if (x->dtype == WB_F64)
        NONFINITE(uint64_t, bits_f64, 0x7ff0000000000000u);
    if (x->dtype == WB_BF16)
        NONFINITE(uint16_t, bits_half, 0x7f80u);
    NONFINITE(uint16_t, bits_half, 0x7c00u);
}

static void start_output(wb_row *row, int histogram)
{
    start(row, histogram);
}

/* Adds a tensor to a row that may hold earlier calls. */
static void add_output(const wb_numbers *x, wb_row *row)
{
    double room[WB_BLOCK], clean[WB_BLOCK];
    const int line = line_of(x->count, x->dtype);
    for (int64_t first = 0; first < x->count; first += WB_BLOCK) {
        const int n = (int)(x->count - first < WB_BLOCK ? x->count - first : WB_BLOCK);
        weigh(load((uint64_t)(uintptr_t)x->data, first, n, x->dtype, room), n, x->dtype, line, clean, row);
    }
}

/* One number of each unit from `first` on: the units lie side by side. */
static void add_side_by_side(const float *x, int64_t first, int64_t units, wb_seat *seat)
{
    int64_t *restrict active = seat->active + first;
    double *restrict sum = seat->sum + first, *restrict sum_sq = seat->sum_sq + first;
    float *restrict max = seat->max + first;
#pragma omp simd
    for (int64_t u = 0; u < units; u++) {
        uint32_t bits;
        memcpy(&bits, &x[u], 4);
        const float value = (bits & 0x7f800000u) == 0x7f800000u ? 0.0f : x[u];
        const float size = value < 0 ? -value : value;
        active[u] += value > 0;
        sum[u] += (double)value;
        sum_sq[u] += (double)value * (double)value;
        max[u] = size > max[u] ? size : max[u];
    }
}

/* A run of numbers of one unit. */
static void add_run(const float *x, int n, int64_t unit, wb_seat *seat)
{
    int32_t active = 0;
    double sum = 0, sum_sq = 0;
    float max = 0;
#pragma omp simd reduction(+ : active, sum, sum_sq) reduction(max : max)
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        const float value = (bits & 0x7f800000u) == 0x7f800000u ? 0.0f : x[i];
        const float size = value < 0 ? -value : value;
        active += value > 0;
        sum += (double)value;
        sum_sq += (double)value * (double)value;
        max = size > max ? size : max;
    }
    seat->active[unit] += active;
    seat->sum[unit] += sum;
    seat->sum_sq[unit] += sum_sq;
    seat->max[unit] = max > seat->max[unit] ? max : seat->max[unit];
}

static const float *as_floats(const wb_numbers *x, int64_t first, int n, float *room)
{
    if (x->dtype == WB_F32)
        return (const float *)x->data + first;
    if (x->dtype == WB_F64) {
        const element_f64 *from = (const element_f64 *)x->data + first;
        for (int i = 0; i < n; i++)
            room[i] = (float)from[i];
        return room;
    }
    return load((uint64_t)(uintptr_t)x->data, first, n, x->dtype, room);
}

static void add_units(const wb_numbers *x, wb_seat *seat)
{
    float room[WB_BLOCK];
    for (int64_t group = 0; group < x->outer * x->units && x->inner > 1; group++)
        for (int64_t first = 0; first < x->inner; first += WB_BLOCK) {
            const int n = (int)(x->inner - first < WB_BLOCK ? x->inner - first : WB_BLOCK);
            add_run(as_floats(x, group * x->inner + first, n, room), n, group % x->units, seat);
        }
    for (int64_t row = 0; row < x->outer && x->inner == 1; row++)
        for (int64_t first = 0; first < x->units; first += WB_BLOCK) {
            const int n = (int)(x->units - first < WB_BLOCK ? x->units - first : WB_BLOCK);
            add_side_by_side(as_floats(x, row * x->units + first, n, room), first, n, seat);
        }
    seat->unit_count += x->outer * x->inner;
}

const wb_output_level JOIN(wb_output_level, WB_LEVEL) = {any_nonfinite, start_output, add_output, add_units};
