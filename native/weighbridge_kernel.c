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
#include "weighbridge_rows.h"

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

static const wb_item_level *weigher(void)
{
    wb_level();
#ifdef WB_X86_LEVELS
    if (level == 2)
        return &wb_item_level_avx512;
    if (level == 1)
        return &wb_item_level_avx2;
#endif
    return &wb_item_level_plain;
}

/* One tensor while it is weighed, piece by piece. Its sums are those of its pieces, added in their order, whoever weighed them. */
#define SUMS 12
typedef struct {
    wb_row rows[3];
    wb_cross cross;
    double sums[SUMS];
} weighed;

static void move_sums(weighed *w, double *sums, int is_back)
{
    double *const places[SUMS] = {
        &w->rows[0].sum, &w->rows[0].sum_abs, &w->rows[0].sum_sq, &w->rows[1].sum, &w->rows[1].sum_abs, &w->rows[1].sum_sq,
        &w->rows[2].sum, &w->rows[2].sum_abs, &w->rows[2].sum_sq, &w->cross.gradient_parameter, &w->cross.gradient_update,
        &w->cross.update_parameter};
    for (int i = 0; i < SUMS; i++)
        *(is_back ? places[i] : &sums[i]) = *(is_back ? &sums[i] : places[i]);
}

static void add_sums(weighed *w, const double *sums, int is_first)
{
    for (int i = 0; i < SUMS; i++)
        w->sums[i] = is_first ? sums[i] : w->sums[i] + sums[i];
}

static int64_t pieces_of(const wb_item *item)
{
    return item->count <= WB_PIECE ? 1 : (item->count + WB_PIECE - 1) / WB_PIECE;
}

static void weigh_piece(const wb_item_level *by, const wb_item *item, int64_t piece, weighed *w)
{
    const int64_t first = piece * WB_PIECE, end = first + WB_PIECE < item->count ? first + WB_PIECE : item->count;
    by->weigh(item, first, end, w->rows, &w->cross);
}

/* From the front on. */
static void weigh_next(const wb_item_level *by, const wb_item *item, int64_t piece, weighed *w)
{
    double sums[SUMS];
    if (piece == 0)
        by->begin(item, w->rows, &w->cross);
    weigh_piece(by, item, piece, w);
    if (item->count <= WB_PIECE)
        return;
    move_sums(w, sums, 0);
    add_sums(w, sums, piece == 0);
}

static void write_rows(wb_block *to, int64_t step, int attempt, const wb_item *item, weighed *w)
{
    if (item->count > WB_PIECE)
        move_sums(w, w->sums, 1);
    if (!item->snapshot) {
        wb_write_row(to, step, attempt, item, item->quantity, &w->rows[0], NULL);
        return;
    }
    if (!(item->skip & 1 << WB_PARAMETER))
        wb_write_row(to, step, attempt, item, WB_PARAMETER, &w->rows[0], NULL);
    if (item->gradient && !(item->skip & 1 << WB_GRADIENT))
        wb_write_row(to, step, attempt, item, WB_GRADIENT, &w->rows[1], NULL);
    if (!(item->skip & 1 << WB_UPDATE))
        wb_write_row(to, step, attempt, item, WB_UPDATE, &w->rows[2], &w->cross);
}

static void weigh_one(const wb_item_level *by, const wb_item *item, int64_t step, int attempt, wb_block *to)
{
    weighed w;
    const int64_t pieces = pieces_of(item);
    for (int64_t k = 0; k < pieces; k++)
        weigh_next(by, item, k, &w);
    write_rows(to, step, attempt, item, &w);
}

/* What two threads share of a step: the helper's rows stand apart until the caller has gathered them. */
typedef struct {
    wb_job job;
    const wb_item_level *by;
    const wb_item *items;
    int64_t step;
    int attempt;
    wb_block *to, *apart;
    int64_t *first_row; /* in `apart`, of each item that the helper has weighed to its first piece */
    int64_t item, piece; /* the helper's next, from the back */
    double *sums;        /* of the pieces of the helper's item */
    weighed helpers;
} shared_step;

static void weigh_from_back(wb_job *job)
{
    shared_step *const s = (shared_step *)job;
    const wb_item *const item = &s->items[s->item];
    if (s->piece == pieces_of(item) - 1)
        s->by->begin(item, s->helpers.rows, &s->helpers.cross);
    weigh_piece(s->by, item, s->piece, &s->helpers);
    move_sums(&s->helpers, s->sums + s->piece * SUMS, 0);
    if (s->piece-- > 0)
        return;
    for (int64_t k = 0; k < pieces_of(item); k++)
        add_sums(&s->helpers, s->sums + k * SUMS, k == 0);
    s->first_row[s->item] = s->apart->rows;
    write_rows(s->apart, s->step, s->attempt, item, &s->helpers);
    if (s->item-- > 0)
        s->piece = pieces_of(item - 1) - 1;
}

static void merge_row(wb_row *to, const wb_row *from)
{
    to->nan += from->nan;
    to->pos_inf += from->pos_inf;
    to->neg_inf += from->neg_inf;
    to->zero += from->zero;
    to->subnormal += from->subnormal;
    to->looked_at += from->looked_at;
    to->min = from->min < to->min ? from->min : to->min;
    to->max = from->max > to->max ? from->max : to->max;
    to->octave = from->octave > to->octave ? from->octave : to->octave;
    const int tables = from->histogram ? 1 : from->tables; /* a finer one is one table */
    for (int t = 0; t < tables; t++)
        for (int b = 0; b < wb_bins_of(from->histogram); b++)
            to->bins[0][b] += from->bins[t][b];
}

/* An item of which the caller has weighed the pieces before `piece`, the helper the others. */
static void merge_item(const wb_item *item, int64_t piece, weighed *w, const shared_step *s)
{
    for (int r = 0; r < 3; r++)
        if (r == 0 || (item->snapshot && (r == 2 || item->gradient)))
            merge_row(&w->rows[r], &s->helpers.rows[r]);
    w->cross.lost += s->helpers.cross.lost;
    for (int64_t k = piece; k < pieces_of(item); k++)
        add_sums(w, s->sums + k * SUMS, 0);
}

/* The caller's share, then all rows in the items' order. */
static void weigh_from_front(shared_step *s, int64_t n, int waits)
{
    weighed w;
    int64_t i = 0, piece = 0;
    wb_share(&s->job, waits);
    while (wb_take(&s->job, 0) >= 0) {
        weigh_next(s->by, &s->items[i], piece, &w);
        if (++piece < pieces_of(&s->items[i]))
            continue;
        write_rows(s->to, s->step, s->attempt, &s->items[i++], &w);
        piece = 0;
    }
    wb_gather(&s->job);
    if (piece) {
        merge_item(&s->items[i], piece, &w, s);
        write_rows(s->to, s->step, s->attempt, &s->items[i++], &w);
    }
    for (int64_t mine = i; i < n; i++)
        wb_append_rows(s->to, s->apart, s->first_row[i], i > mine ? s->first_row[i - 1] : s->apart->rows);
}

/* Returns 0, with nothing done, where the helper has no time or there is no memory for its rows. */
static int weigh_by_two(const wb_item *items, int64_t n, int64_t step, int attempt, wb_block *to, int waits)
{
    int64_t counts = 0, pieces = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t of_item = pieces_of(&items[i]);
        counts += 3 * wb_bins_of(items[i].histogram);
        pieces += of_item;
        most = of_item > most ? of_item : most;
    }
    if (n == 0 || pieces > UINT32_MAX || !wb_helper_is_free(waits))
        return 0;
    shared_step s;
    s.job.weigh = weigh_from_back;
    s.job.n = pieces;
    s.job.helped = 0;
    atomic_init(&s.job.ends, (uint64_t)pieces << 32);
    s.by = weigher();
    s.items = items;
    s.step = step;
    s.attempt = attempt;
    s.to = to;
    s.item = n - 1;
    s.piece = pieces_of(&items[n - 1]) - 1;
    s.apart = wb_block_apart(3 * n, counts, n, &s.first_row, SUMS * most, &s.sums);
    if (s.apart)
        weigh_from_front(&s, n, waits);
    wb_helper_let_go();
    return s.apart != NULL;
}

/* Weighs all items; into `values` (may be NULL) go the numbers themselves of those whose bits meet `keep`. `shares`: the
 * helper may take some; 2, for tests: it does take the last. Returns 0, or -1, with nothing done, where there is no room for all of them. */
WB_PUBLIC int wb_weigh(const wb_item *items, int64_t n, int64_t step, int attempt, wb_block *to, wb_values *values, int keep,
                       int shares)
{
    if (!wb_has_room(items, n, to, values, keep))
        return -1;
    for (int64_t i = 0; i < n; i++)
        if (wb_keeps(&items[i], values, keep))
            wb_keep_values(values, step, attempt, &items[i]);
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
