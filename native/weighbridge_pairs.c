/* The two tests of independence of capture/pairing.py, which says what they are, for batches so small that calls of NumPy cost
 * more than the arithmetic. Distances are sums of squared differences here, of squares and products there. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "plain_arithmetic.h"
#include "weighbridge_pairs.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

static const double *floats(const wb_pair_part *part, int64_t row) { return (const double *)part->values + row * part->features; }

static const int64_t *wholes(const wb_pair_part *part, int64_t row) { return (const int64_t *)part->values + row * part->features; }

static int is_finite(const wb_pair_part *part, int64_t samples)
{
    if (!part->is_whole)
        for (int64_t i = 0; i < samples * part->features; i++)
            if (!isfinite(floats(part, 0)[i]))
                return 0;
    return 1;
}

static int is_same(const wb_pairs *p, int64_t one, int64_t other)
{
    for (int64_t k = 0; k < p->parts; k++) {
        const wb_pair_part *const part = &p->part[k];
        for (int64_t f = 0; f < part->features; f++)
            if (part->is_whole ? wholes(part, one)[f] != wholes(part, other)[f] : floats(part, one)[f] != floats(part, other)[f])
                return 0;
    }
    return 1;
}

/* A sample drawn twice agrees with itself: of those whose inputs are the same, the first. Gives how many there are. */
static int64_t first_of_each(const wb_pairs *p, int64_t *keep)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < p->samples; i++) {
        int64_t k = 0;
        while (k < kept && !is_same(p, i, keep[k]))
            k++;
        if (k == kept)
            keep[kept++] = i;
    }
    return kept;
}

static double share_unlike(const int64_t *one, const int64_t *other, int64_t features)
{
    int64_t unlike = 0;
    for (int64_t f = 0; f < features; f++)
        unlike += one[f] != other[f];
    return features ? (double)unlike / features : 0;
}

static double squared(const double *one, const double *other, int64_t features)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t f = 0; f < features; f++)
        sum += (one[f] - other[f]) * (one[f] - other[f]);
    return sum;
}

/* [n, features] over the spread of each feature; gives how many features differ at all. */
static int64_t standardised(const wb_pair_part *part, const int64_t *keep, int64_t n, double *to)
{
    int64_t used = 0;
    for (int64_t f = 0; f < part->features; f++) {
        double mean = 0, square = 0;
        for (int64_t i = 0; i < n; i++)
            mean += floats(part, keep[i])[f];
        mean /= n;
        for (int64_t i = 0; i < n; i++)
            square += (floats(part, keep[i])[f] - mean) * (floats(part, keep[i])[f] - mean);
        const double spread = sqrt(square / n);
        if (spread > 0) {
            for (int64_t i = 0; i < n; i++)
                to[i * part->features + used] = (floats(part, keep[i])[f] - mean) / spread;
            used++;
        }
    }
    return used;
}

/* [n, n]; gives their sum. */
static double distances(const wb_pair_part *part, const int64_t *keep, int64_t n, double *room, double *to)
{
    const int64_t used = part->is_whole ? 0 : standardised(part, keep, n, room);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        to[i * n + i] = 0;
        for (int64_t j = 0; j < i; j++) {
            const double apart = part->is_whole ? share_unlike(wholes(part, keep[i]), wholes(part, keep[j]), part->features)
                                                : sqrt(squared(room + i * part->features, room + j * part->features, used));
            to[i * n + j] = to[j * n + i] = apart;
            sum += 2 * apart;
        }
    }
    return sum;
}

/* Over all inputs together; each counts the same, but for those that do not differ. */
static void sum_of_distances(const wb_pairs *p, const int64_t *keep, int64_t n, double *room, double *one, double *to)
{
    if (p->parts == 1) {
        distances(&p->part[0], keep, n, room, to);
        return;
    }
    memset(to, 0, n * n * sizeof *to);
    for (int64_t k = 0; k < p->parts; k++) {
        const double mean = distances(&p->part[k], keep, n, room, one) / (n * n);
        if (mean > 0)
            for (int64_t i = 0; i < n * n; i++)
                to[i] += one[i] / mean;
    }
}

static void centre(double *d, int64_t n)
{
    double rows[WB_PAIR_SAMPLES], all = 0;
    for (int64_t i = 0; i < n; i++) {
        rows[i] = 0;
        for (int64_t j = 0; j < n; j++)
            rows[i] += d[i * n + j];
        all += rows[i];
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            d[i * n + j] = i == j ? 0 : d[i * n + j] - (rows[i] + rows[j]) / (n - 2) + all / ((n - 1) * (n - 2));
}

static void by_distance(wb_pairs *p, const int64_t *keep)
{
    const int64_t n = p->kept;
    double *const a = p->room, *const b = a + n * n, *const one = b + n * n, *const room = one + n * n;
    p->distance = p->distance_variance = 0;
    if (n < 4)
        return;
    sum_of_distances(p, keep, n, room, one, a);
    distances(&p->part[p->parts], keep, n, room, b);
    centre(a, n);
    centre(b, n);
    double together = 0, of_a = 0, of_b = 0;
    for (int64_t i = 0; i < n * n; i++) {
        together += a[i] * b[i];
        of_a += a[i] * a[i];
        of_b += b[i] * b[i];
    }
    p->distance = together;
    p->distance_variance = 2 * of_a * of_b / (n * (n - 3));
}

/* The samples, scaled, at the end of what is remembered. */
static void remember(const wb_pairs *p, const int64_t *keep)
{
    for (int64_t k = 0; k <= p->parts; k++) {
        const wb_pair_part *const part = &p->part[k];
        const int64_t at = p->end * part->features;
        for (int64_t i = 0; i < p->kept; i++)
            for (int64_t f = 0; f < part->features; f++)
                if (part->is_whole)
                    ((int64_t *)part->memory)[at + i * part->features + f] = wholes(part, keep[i])[f];
                else
                    ((double *)part->memory)[at + i * part->features + f]
                        = floats(part, keep[i])[f] * (part->scale ? part->scale[f] : 1);
    }
}

/* How far two rows of the memory lie apart, as a share of samples that have nothing to do with each other. */
static double apart(const wb_pairs *p, int64_t one, int64_t other)
{
    double sum = 0;
    for (int64_t k = 0; k < p->parts; k++) {
        const wb_pair_part *const part = &p->part[k];
        const int64_t n = part->features;
        sum += part->is_whole
                 ? share_unlike((const int64_t *)part->memory + one * n, (const int64_t *)part->memory + other * n, n)
                 : squared((const double *)part->memory + one * n, (const double *)part->memory + other * n, n) / (2 * (n ? n : 1));
    }
    return sum;
}

/* The nearest earlier sample that is not the same; -1 = none. */
static int64_t nearest(const wb_pairs *p, int64_t row)
{
    double least = INFINITY;
    int64_t found = -1;
    for (int64_t known = p->begin; known < p->end; known++) {
        const double away = apart(p, row, known);
        if (away > 0.5e-9 * p->parts && away < least) {
            least = away;
            found = known;
        }
    }
    return found;
}

static void classes_agree(wb_pairs *p, const int64_t *target)
{
    for (int64_t row = p->end; row < p->end + p->kept; row++) {
        const int64_t known = nearest(p, row);
        if (known < 0)
            continue;
        int64_t alike = 0;
        for (int64_t i = p->begin; i < p->end; i++)
            alike += target[i] == target[row];
        const double chance = (double)alike / (p->end - p->begin);
        p->neighbour += (target[known] == target[row]) - chance;
        p->neighbour_variance += chance * (1 - chance);
    }
}

static double spread_of(const double *x, int64_t n, double *mean)
{
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    *mean = sum / n;
    for (int64_t i = 0; i < n; i++)
        square += (x[i] - *mean) * (x[i] - *mean);
    return sqrt(square / n);
}

static void numbers_agree(wb_pairs *p, const double *target)
{
    double near[WB_PAIR_SAMPLES], own[WB_PAIR_SAMPLES], middle, own_middle;
    int64_t met = 0;
    for (int64_t row = p->end; row < p->end + p->kept; row++) {
        const int64_t known = nearest(p, row);
        if (known >= 0) {
            near[met] = target[known];
            own[met++] = target[row];
        }
    }
    if (!met)
        return;
    const double both = spread_of(target + p->begin, p->end - p->begin, &middle) * spread_of(own, met, &own_middle);
    for (int64_t i = 0; i < met; i++)
        p->neighbour += (near[i] - middle) * (own[i] - own_middle) / (both != 0 ? both : 1);
    p->neighbour_variance = met;
}

/* 0, with nothing done, where a number is not finite. */
WB_PUBLIC int wb_compare_pairs(wb_pairs *p)
{
    int64_t keep[WB_PAIR_SAMPLES];
    for (int64_t k = 0; k <= p->parts; k++)
        if (!is_finite(&p->part[k], p->samples))
            return 0;
    const __typeof__(enter_plain_arithmetic()) before = enter_plain_arithmetic();
    p->kept = first_of_each(p, keep);
    by_distance(p, keep);
    p->neighbour = p->neighbour_variance = 0;
    if (p->remembers) {
        remember(p, keep);
        if (p->end > p->begin && p->part[p->parts].is_whole)
            classes_agree(p, p->part[p->parts].memory);
        else if (p->end > p->begin)
            numbers_agree(p, p->part[p->parts].memory);
    }
    leave_plain_arithmetic(before);
    return 1;
}

WB_PUBLIC int wb_pairs_size(void) { return (int)sizeof(wb_pairs); }
