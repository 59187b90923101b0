/* weighbridge's summary kernel: a plain shared library that Python loads with ctypes; it knows neither Python nor torch.
 *
 * One call a step weighs all tensors: for each item its rows go straight into preallocated columns, which are the
 * buffers of an Arrow record batch. weigh_level.c does the sums, once for each instruction level of this processor
 * family; the level is chosen here when it is first needed, never by -march=native. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "plain_arithmetic.h"
#include "weighbridge_helper.h"
#include "weighbridge_kernel.h"
#include "weighbridge_output.h"

#ifndef WB_DIGEST
#define WB_DIGEST "none"
#endif

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

/* Levels of this library, best last. A race at first use is harmless: every thread finds the same. */
static const char *const level_names[] = {"plain", "avx2", "avx512"};
static int level = -1;

WB_PUBLIC int wb_levels(void) /* how many of them this processor can run */
{
#ifdef WB_X86_LEVELS
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 1;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vl")
        ? 3
        : 2;
#else
    return 1;
#endif
}

WB_PUBLIC const char *wb_use_level(int wanted) /* for tests and benchmarks; -1 = the best. Returns its name */
{
    int best = wb_levels() - 1;
    level = wanted < 0 || wanted > best ? best : wanted;
    return level_names[level];
}

int wb_level(void)
{
    if (level < 0)
        wb_use_level(-1);
    return level;
}

static wb_weigh_item *weigher(void)
{
    wb_level();
#ifdef WB_X86_LEVELS
    if (level == 2)
        return wb_weigh_item_avx512;
    if (level == 1)
        return wb_weigh_item_avx2;
#endif
    return wb_weigh_item_plain;
}

static int bins_of(int histogram)
{
    return histogram < 0 ? 0 : WB_BINS(histogram);
}

static void write_histogram(wb_block *to, const wb_row *row, int64_t r)
{
    uint32_t sum[WB_BINS(0)];
    const uint32_t *counts = row->bins[0];
    if (row->tables == WB_TABLES && row->histogram == 0) {
        for (int b = 0; b < WB_BINS(0); b++)
            sum[b] = row->bins[0][b] + row->bins[1][b] + row->bins[2][b] + row->bins[3][b];
        counts = sum;
    }
    const int bins = row->looked_at ? bins_of(row->histogram) : 0, empty = bins ? WB_OCTAVES + 1 - row->octave : 0;
    int first = empty, end = bins - empty;
    while (first < end && !counts[first])
        first++;
    while (end > first && !counts[end - 1])
        end--;
    to->hist_count[r] = row->looked_at;
    to->hist_bits[r] = (int8_t)(row->histogram < 0 ? 0 : row->histogram);
    to->hist_first[r] = (int16_t)(first == end ? 0 : first);
    memcpy(to->hist + to->counts, counts + first, (size_t)(end - first) * sizeof *counts);
    to->counts += end - first;
    to->hist_offsets[r + 1] = (int32_t)to->counts;
}

static void write_row(wb_block *to, int64_t step, int attempt, const wb_item *item, int quantity, const wb_row *row,
                      const wb_cross *cross)
{
    const int64_t r = to->rows;
    const int none_finite = row->nan + row->pos_inf + row->neg_inf == item->count;
    to->step[r] = step;
    to->attempt[r] = (int16_t)attempt;
    to->tensor[r] = item->tensor;
    to->quantity[r] = (int8_t)quantity;
    to->part[r] = 0;
    to->count[r] = item->count;
    to->nan[r] = row->nan;
    to->pos_inf[r] = row->pos_inf;
    to->neg_inf[r] = row->neg_inf;
    to->zero[r] = row->zero;
    to->subnormal[r] = row->subnormal;
    to->min[r] = none_finite ? NAN : row->min;
    to->max[r] = none_finite ? NAN : row->max;
    to->sum[r] = row->sum;
    to->sum_abs[r] = row->sum_abs;
    to->sum_sq[r] = row->sum_sq;
    write_histogram(to, row, r);
    to->dot_gradient_parameter[r] = cross && item->gradient ? cross->gradient_parameter : NAN;
    to->dot_gradient_update[r] = cross && item->gradient ? cross->gradient_update : NAN;
    to->dot_update_parameter[r] = cross ? cross->update_parameter : NAN;
    to->lost[r] = cross ? cross->lost : 0;
    to->rows = r + 1;
}

void wb_write_output_row(wb_block *to, int64_t step, int attempt, const wb_seat *seat)
{
    const wb_item item = {.tensor = seat->tensor, .count = seat->count};
    write_row(to, step, attempt, &item, seat->quantity, &seat->row, NULL);
}

static void *add_values(wb_values *to, int64_t step, int attempt, const wb_item *item, int quantity)
{
    const int64_t r = to->rows, size = item->count * (int64_t)sizeof(float);
    uint8_t *const place = to->data + to->bytes;
    to->step[r] = step;
    to->attempt[r] = (int16_t)attempt;
    to->tensor[r] = item->tensor;
    to->quantity[r] = (int8_t)quantity;
    to->bytes += size;
    to->offsets[r + 1] = (int32_t)to->bytes;
    to->rows = r + 1;
    return place;
}

/* The numbers themselves of a small tensor: before, gradient, update. Before it is weighed, which refreshes the snapshot. */
static void keep_values(wb_values *to, int64_t step, int attempt, const wb_item *item)
{
    const size_t size = (size_t)item->count * sizeof(float);
    memcpy(add_values(to, step, attempt, item, WB_PARAMETER), (const void *)(uintptr_t)item->snapshot, size);
    if (item->gradient)
        memcpy(add_values(to, step, attempt, item, WB_GRADIENT), (const void *)(uintptr_t)item->gradient, size);
    char *update = add_values(to, step, attempt, item, WB_UPDATE);
    const char *before = (const char *)(uintptr_t)item->snapshot, *after = (const char *)(uintptr_t)item->parameter;
    for (size_t at = 0; at < size; at += sizeof(float)) {
        float a, b;
        memcpy(&a, after + at, sizeof a);
        memcpy(&b, before + at, sizeof b);
        a -= b;
        memcpy(update + at, &a, sizeof a);
    }
}

static int keeps(const wb_item *item, const wb_values *values, int keep)
{
    return values && item->snapshot && (item->values & keep);
}

/* Is there room for all of them, whatever their histograms? */
static int has_room(const wb_item *items, int64_t n, const wb_block *to, const wb_values *values, int keep)
{
    int64_t rows = to->rows, counts = to->counts, values_rows = 0, values_bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        const int of_item = items[i].snapshot ? 3 : 1;
        rows += of_item;
        counts += of_item * bins_of(items[i].histogram);
        if (keeps(&items[i], values, keep)) {
            values_rows += 3;
            values_bytes += 3 * items[i].count * (int64_t)sizeof(float);
        }
    }
    return rows <= to->capacity_rows && counts <= to->capacity_counts
        && (!values
            || (values->rows + values_rows <= values->capacity_rows
                && values->bytes + values_bytes <= values->capacity_bytes));
}

static void weigh_one(wb_weigh_item *weigh_item, const wb_item *item, int64_t step, int attempt, wb_block *to)
{
    wb_row rows[3];
    wb_cross cross;
    weigh_item(item, rows, &cross);
    if (!item->snapshot) {
        write_row(to, step, attempt, item, item->quantity, &rows[0], NULL);
        return;
    }
    if (!(item->skip & 1 << WB_PARAMETER))
        write_row(to, step, attempt, item, WB_PARAMETER, &rows[0], NULL);
    if (item->gradient && !(item->skip & 1 << WB_GRADIENT))
        write_row(to, step, attempt, item, WB_GRADIENT, &rows[1], NULL);
    if (!(item->skip & 1 << WB_UPDATE))
        write_row(to, step, attempt, item, WB_UPDATE, &rows[2], &cross);
}

/* What two threads share of a step: the helper's rows stand apart until the caller has gathered them. */
typedef struct {
    wb_job job;
    wb_weigh_item *weigh_item;
    const wb_item *items;
    int64_t step;
    int attempt;
    wb_block *to, *apart;
    int64_t *first_row; /* in `apart`, of each item that the helper took */
} shared_step;

static void weigh_shared(wb_job *job, int64_t i, int by_helper)
{
    shared_step *const s = (shared_step *)job;
    if (by_helper)
        s->first_row[i] = s->apart->rows;
    weigh_one(s->weigh_item, &s->items[i], s->step, s->attempt, by_helper ? s->apart : s->to);
}

/* Returns 0, with nothing done, where the helper has no time or there is no memory for its rows. */
static int weigh_by_two(const wb_item *items, int64_t n, int64_t step, int attempt, wb_block *to, int waits)
{
    shared_step s = {.job = {.weigh = weigh_shared, .n = n}, .weigh_item = weigher(), .items = items, .step = step};
    int64_t counts = 0;
    for (int64_t i = 0; i < n; i++)
        counts += 3 * bins_of(items[i].histogram);
    atomic_init(&s.job.ends, (uint64_t)n << 32);
    s.attempt = attempt;
    s.to = to;
    if (!wb_helper_is_free())
        return 0;
    s.apart = wb_block_apart(3 * n, counts, n, &s.first_row);
    if (!s.apart) {
        wb_helper_let_go();
        return 0;
    }
    wb_share(&s.job, waits);
    int64_t mine = 0;
    for (int64_t i; (i = wb_take(&s.job, 0)) >= 0; mine = i + 1)
        weigh_shared(&s.job, i, 0);
    wb_gather(&s.job);
    for (int64_t i = mine; i < n; i++)
        wb_append_rows(to, s.apart, s.first_row[i], i > mine ? s.first_row[i - 1] : s.apart->rows);
    wb_helper_let_go();
    return 1;
}

/* Weighs all items; into `values` (may be NULL) go the numbers themselves of those whose bits meet `keep`. `shares`: the
 * helper may take some; 2, for tests: it does take the last. Returns 0, or -1, with nothing done, where there is no room for all of them. */
WB_PUBLIC int wb_weigh(const wb_item *items, int64_t n, int64_t step, int attempt, wb_block *to, wb_values *values, int keep,
                       int shares)
{
    if (!has_room(items, n, to, values, keep))
        return -1;
    for (int64_t i = 0; i < n; i++)
        if (keeps(&items[i], values, keep))
            keep_values(values, step, attempt, &items[i]);
    const __typeof__(enter_plain_arithmetic()) before = enter_plain_arithmetic();
    if (!shares || !weigh_by_two(items, n, step, attempt, to, shares > 1))
        for (int64_t i = 0; i < n; i++)
            weigh_one(weigher(), &items[i], step, attempt, to);
    leave_plain_arithmetic(before);
    return 0;
}

int wb_differs(const wb_item *item)
{
    static const int sizes[] = {4, 8, 2, 2};
    return item->snapshot && item->count
        && memcmp((const void *)(uintptr_t)item->parameter, (const void *)(uintptr_t)item->snapshot,
                  (size_t)(item->count * sizes[item->dtype]))
        != 0;
}

/* Writes into `moved` which items' bytes differ from their snapshot's (where they have one); returns how many. */
WB_PUBLIC int64_t wb_moved(const wb_item *items, int64_t n, int64_t *moved)
{
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++)
        if (wb_differs(&items[i]))
            moved[found++] = i;
    return found;
}

WB_PUBLIC int wb_abi(void) { return WB_ABI; }
WB_PUBLIC const char *wb_digest(void) { return WB_DIGEST; } /* of the sources that this was built from */
WB_PUBLIC int wb_block_size(void) { return (int)sizeof(wb_block); }
WB_PUBLIC int wb_values_size(void) { return (int)sizeof(wb_values); }
WB_PUBLIC int wb_item_size(void) { return (int)sizeof(wb_item); }
