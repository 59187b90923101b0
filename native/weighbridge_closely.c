/* The sums of a closer look at one output: a dozen calls of NumPy each cost more than all of their arithmetic. These are
 * `ml_meth`s of PyCFunctions (METH_O): `self` is an int, the address of the structure that holds question and answer. True:
 * answered. False: this tensor cannot be read where it lies, or has another dtype; Python looks at it. Compiled without
 * contraction: whether a number lies where a function is flat is decided in float32 as torch would. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "plain_arithmetic.h"
#include "weighbridge_closely.h"
#include "weighbridge_look.h"
#include "weighbridge_output.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

enum { MOST_DIMENSIONS = 16 };

typedef struct { /* part of a tensor, taken evenly: [samples, positions, features] */
    const char *data;
    int is_double;
    int64_t samples, positions, features;
    int64_t sample_stride, feature_stride, position[WB_SPREAD_POSITIONS]; /* elements */
} part;

static int64_t step_of(int64_t size, int64_t most) { return size > most ? (size + most - 1) / most : 1; }

static int64_t many(int64_t size, int64_t step) { return (size + step - 1) / step; }

/* 0 where it cannot be read here. `axis` of the features; all dimensions between the first and that, and after it, are one of
 * positions, in their order. */
static int take_part(const wb_python *python, void *tensor, int axis, const int64_t most[3], part *to)
{
    dl_tensor t;
    if (!wb_describe(python, tensor, &t) || t.dimensions > MOST_DIMENSIONS || (t.dimensions > 1 && !t.strides))
        return 0;
    const int dtype = t.code == 2 ? wb_dtype_of(&t) : -1;
    if (dtype != WB_F32 && dtype != WB_F64)
        return 0;
    axis = axis < 0 ? t.dimensions + axis : axis;
    to->samples = to->positions = to->features = 0;
    if (t.dimensions < 2 || axis < 1 || axis >= t.dimensions)
        return 1;
    int64_t positions = 1;
    for (int d = 1; d < t.dimensions; d++)
        positions *= d == axis ? 1 : t.shape[d];
    const int64_t steps[3] = {step_of(t.shape[0], most[0]), step_of(positions, most[1]), step_of(t.shape[axis], most[2])};
    to->data = (const char *)t.data + t.offset;
    to->is_double = dtype == WB_F64;
    to->samples = many(t.shape[0], steps[0]);
    to->positions = many(positions, steps[1]);
    to->features = many(t.shape[axis], steps[2]);
    to->sample_stride = steps[0] * t.strides[0];
    to->feature_stride = steps[2] * t.strides[axis];
    for (int64_t p = 0; p < to->positions; p++) {
        int64_t left = p * steps[1], at = 0;
        for (int d = t.dimensions - 1; d > 0; d--)
            if (d != axis) {
                at += left % t.shape[d] * t.strides[d];
                left /= t.shape[d];
            }
        to->position[p] = at;
    }
    return 1;
}

static void gather(const part *y, double *to)
{
    for (int64_t s = 0; s < y->samples; s++)
        for (int64_t p = 0; p < y->positions; p++, to += y->features) {
            const int64_t at = s * y->sample_stride + y->position[p];
            if (y->is_double)
                for (int64_t f = 0; f < y->features; f++)
                    to[f] = ((const double *)y->data)[at + f * y->feature_stride];
            else
                for (int64_t f = 0; f < y->features; f++)
                    to[f] = ((const float *)y->data)[at + f * y->feature_stride];
        }
}

static double sum_of_squares(const double *x, int64_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

/* Sum of squares of [outer, n, inner] less its mean over n; `left` (may be NULL) gets what is left. `mean`: room for inner. */
static double around_mean(const double *y, int64_t outer, int64_t n, int64_t inner, double *mean, double *left)
{
    double sum = 0;
    for (int64_t o = 0; o < outer; o++, y += n * inner) {
        memset(mean, 0, inner * sizeof *mean);
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < inner; k++)
                mean[k] += y[i * inner + k];
        for (int64_t k = 0; k < inner; k++)
            mean[k] /= n;
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < inner; k++) {
                const double x = y[i * inner + k] - mean[k];
                sum += x * x;
                if (left)
                    left[(o * n + i) * inner + k] = x;
            }
    }
    return sum;
}

static int64_t divisor(int64_t a, int64_t b) { return b ? divisor(b, a % b) : a; }

/* So that at most WB_SPREAD_VECTORS are left, of all positions alike. */
static int64_t vector_step(int64_t vectors, int64_t positions)
{
    int64_t step = step_of(vectors, WB_SPREAD_VECTORS);
    while (divisor(step, positions) > 1)
        step++;
    return step;
}

/* Trace of the Gram matrix of n vectors of k numbers, and the sum of its squares. */
static void gram(const double *x, int64_t n, int64_t k, double *trace, double *trace_sq)
{
    *trace = *trace_sq = 0;
    for (int64_t i = 0; i < n; i++) {
        const double *const a = x + i * k, own = sum_of_squares(a, k);
        *trace += own;
        *trace_sq += own * own;
        int64_t j = i + 1;
        for (; j + 3 < n; j += 4) { /* four at once: their sums do not wait for each other */
            const double *const b = x + j * k, *const c = b + k, *const d = c + k, *const e = d + k;
            double sb = 0, sc = 0, sd = 0, se = 0;
#pragma omp simd reduction(+ : sb, sc, sd, se)
            for (int64_t m = 0; m < k; m++) {
                sb += a[m] * b[m];
                sc += a[m] * c[m];
                sd += a[m] * d[m];
                se += a[m] * e[m];
            }
            *trace_sq += 2 * (sb * sb + sc * sc + sd * sd + se * se);
        }
        for (; j < n; j++) {
            const double *const b = x + j * k;
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t m = 0; m < k; m++)
                sum += a[m] * b[m];
            *trace_sq += 2 * sum * sum;
        }
    }
}

static void weigh_spread(const part *y, wb_spread *to)
{
    const int64_t all = y->samples * y->positions, inner = y->positions * y->features;
    double *const numbers = to->room, *const left = numbers + all * y->features, *const mean = left + all * y->features;
    gather(y, numbers);
    to->sum_sq = sum_of_squares(numbers, all * y->features);
    to->is_there = isfinite(to->sum_sq) != 0;
    if (!to->is_there)
        return;
    to->samples = y->samples, to->positions = y->positions, to->features = y->features;
    to->sample_sq = around_mean(numbers, 1, y->samples, inner, mean, left);
    to->position_sq = y->positions == 1 ? 0 : around_mean(numbers, y->samples, y->positions, y->features, mean, NULL);
    const int64_t step = vector_step(all, y->positions);
    to->vectors = many(all, step);
    const int by_feature = to->vectors >= y->features; /* the smaller of both Gram matrices: they have the same eigenvalues */
    for (int64_t v = 0; v < to->vectors; v++) /* what was gathered is no longer needed */
        for (int64_t f = 0; f < y->features; f++)
            numbers[by_feature ? f * to->vectors + v : v * y->features + f] = left[v * step * y->features + f];
    if (by_feature)
        gram(numbers, y->features, to->vectors, &to->trace, &to->trace_sq);
    else
        gram(numbers, to->vectors, y->features, &to->trace, &to->trace_sq);
}

static void *answer(const wb_python *python, int is_done)
{
    void *const found = is_done ? python->yes : python->no;
    python->hold(found);
    return found;
}

WB_PUBLIC void *wb_spread_of(void *self, void *tensor)
{
    static const int64_t most[3] = {WB_SPREAD_SAMPLES, WB_SPREAD_POSITIONS, WB_SPREAD_FEATURES};
    const wb_python *const python = wb_lent();
    wb_spread *const to = (wb_spread *)(uintptr_t)python->number(self);
    part y;
    to->is_there = 0;
    if (!take_part(python, tensor, to->axis, most, &y))
        return answer(python, 0);
    if (y.samples > 1 && y.positions && y.features) {
        const __typeof__(enter_plain_arithmetic()) before = enter_plain_arithmetic();
        weigh_spread(&y, to);
        leave_plain_arithmetic(before);
    }
    return answer(python, 1);
}

static int is_flat(int function, float a, float low, float high)
{
    switch (function) {
    case WB_TANH: return 1.0f - a * a < 1e-2f;
    case WB_SIGMOID: return a * (1.0f - a) < 1e-2f;
    case WB_RELU: return a <= 0.0f;
    case WB_GELU: return fabsf(a) < 1e-4f;
    case WB_SILU: return fabsf(a) < 9e-4f;
    default: return a <= low || a >= high;
    }
}

static void count_flat(const part *y, wb_bend *to)
{
    const float low = to->low, high = to->high;
    memset(to->room, 0, y->features * sizeof *to->room);
    for (int64_t s = 0; s < y->samples; s++)
        for (int64_t p = 0; p < y->positions; p++) {
            const int64_t at = s * y->sample_stride + y->position[p];
            for (int64_t f = 0; f < y->features; f++) {
                const int64_t i = at + f * y->feature_stride;
                const float a = y->is_double ? (float)((const double *)y->data)[i] : ((const float *)y->data)[i];
                to->room[f] += is_flat(to->function, a, low, high);
            }
        }
}

WB_PUBLIC void *wb_bend_of(void *self, void *tensor)
{
    static const int64_t most[3] = {WB_BEND_SAMPLES, WB_BEND_POSITIONS, WB_BEND_FEATURES};
    const wb_python *const python = wb_lent();
    wb_bend *const to = (wb_bend *)(uintptr_t)python->number(self);
    part y;
    dl_tensor t;
    const int is_image = wb_describe(python, tensor, &t) && (t.dimensions == 4 || t.dimensions == 5);
    if (!take_part(python, tensor, is_image ? 1 : -1, most, &y) || !y.samples || !y.positions || !y.features)
        return answer(python, 0);
    count_flat(&y, to);
    const double all = (double)(y.samples * y.positions);
    double sum = 0, most_flat = 0, asleep = 0;
    for (int64_t f = 0; f < y.features; f++) {
        const double share = to->room[f] / all;
        sum += share;
        most_flat += share > 0.95;
        asleep += share == 1;
    }
    to->flat = sum / y.features, to->flat_units = most_flat / y.features, to->asleep_units = asleep / y.features;
    return answer(python, 1);
}

static double element(const dl_tensor *t, int dtype, int64_t i)
{
    const char *const data = (const char *)t->data + t->offset;
    return dtype == WB_F64 ? ((const double *)data)[i] : ((const float *)data)[i];
}

WB_PUBLIC void *wb_bias_of(void *self, void *tensor)
{
    const wb_python *const python = wb_lent();
    wb_bias *const to = (wb_bias *)(uintptr_t)python->number(self);
    dl_tensor t;
    int in_order;
    if (!wb_describe(python, tensor, &t))
        return answer(python, 0);
    const int dtype = t.code == 2 ? wb_dtype_of(&t) : -1;
    const int64_t n = wb_count_of(&t, &in_order);
    if (!in_order || n != to->seat->units || (dtype != WB_F32 && dtype != WB_F64))
        return answer(python, 0);
    const __typeof__(enter_plain_arithmetic()) before = enter_plain_arithmetic();
    double bias_sq = 0, cross = 0, rest = 0;
    for (int64_t i = 0; i < n; i++) {
        const double b = element(&t, dtype, i);
        bias_sq += b * b;
        cross += b * (to->seat->sum[i] - to->sum_before[i]);
        rest += to->seat->sum_sq[i] - to->sum_sq_before[i];
    }
    to->bias_sq = to->count * bias_sq;
    to->rest_sq = rest - 2 * cross + to->bias_sq;
    to->cross = cross - to->bias_sq;
    leave_plain_arithmetic(before);
    return answer(python, 1);
}

WB_PUBLIC int wb_closely_sizes(int which)
{
    return which == 0 ? (int)sizeof(wb_spread) : which == 1 ? (int)sizeof(wb_bend) : (int)sizeof(wb_bias);
}
