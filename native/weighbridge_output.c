/* Weighs what a module has given, called from Python's forward hook and by autograd as a tensor hook. Both hand over a
 * tensor; everything else that is needed lies behind `self`, so a call costs a few hundred nanoseconds beside the pass
 * over the numbers, which are still in cache. Call with the GIL held (both do). */
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "plain_arithmetic.h"
#include "weighbridge_look.h"
#include "weighbridge_output.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

typedef struct { /* behind `self` of a hook */
    wb_seat *seat;
    void *otherwise; /* a Python callable that takes what cannot be read here; raises nothing */
} wb_hook;

static const wb_python *python;

WB_PUBLIC void wb_lend(const wb_python *lent) { python = lent; } /* before the first hook is made */
const wb_python *wb_lent(void) { return python; }

static const wb_output_level *output_level(void)
{
#ifdef WB_X86_LEVELS
    if (wb_level() == 2)
        return &wb_output_level_avx512;
    if (wb_level() == 1)
        return &wb_output_level_avx2;
#endif
    return &wb_output_level_plain;
}

/* The numbers of a tensor as `outer` x units x `inner`; units are left alone where the shape does not fit. */
static int read_numbers(void *tensor, const wb_seat *seat, wb_numbers *x)
{
    dl_tensor t;
    int in_order;
    if (!wb_describe(python, tensor, &t))
        return 0;
    x->count = wb_count_of(&t, &in_order);
    x->dtype = wb_dtype_of(&t);
    if (!in_order || x->dtype < 0)
        return 0;
    x->data = (const char *)t.data + t.offset;
    x->outer = x->inner = 1;
    x->units = 0;
    const int axis = seat->axis < 0 ? t.dimensions + seat->axis : seat->axis;
    if (!seat->units || axis < 0 || axis >= t.dimensions || t.shape[axis] != seat->units)
        return 1;
    x->units = seat->units;
    for (int d = 0; d < axis; d++)
        x->outer *= t.shape[d];
    for (int d = axis + 1; d < t.dimensions; d++)
        x->inner *= t.shape[d];
    return 1;
}

static void start_step(wb_seat *seat)
{
    seat->stamp = seat->pace->stamp;
    seat->calls = 0;
    seat->nonfinite_call = seat->place = -1;
}

static void flag(wb_seat *seat)
{
    if (seat->nonfinite_call >= 0)
        return;
    seat->nonfinite_call = seat->calls;
    seat->place = seat->scene->place++;
    seat->scene->flagged++;
}

static void weigh_numbers(wb_seat *seat, const wb_numbers *x)
{
    const wb_output_level *level = output_level();
    seat->scene->last = (uint64_t)(uintptr_t)x->data;
    seat->scene->count = x->count;
    if (seat->stamp != seat->pace->stamp)
        start_step(seat);
    if (seat->pace->mode == WB_WEIGH) {
        wb_row *row = &seat->row;
        if (!seat->weighed++)
            level->start(row, seat->pace->histogram);
        const int64_t bad = row->nan + row->pos_inf + row->neg_inf;
        level->add(x, row);
        seat->count += x->count;
        if (x->units)
            level->add_units(x, seat);
        if (row->nan + row->pos_inf + row->neg_inf != bad)
            flag(seat);
    } else if (seat->pace->mode == WB_GUARD && level->any_nonfinite(x))
        flag(seat);
    seat->calls++;
}

int64_t wb_now_ns(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int wb_meet_tensor(wb_seat *seat, void *tensor)
{
    wb_numbers x;
    if (seat->pace->mode == WB_REST)
        return 1;
    if (!read_numbers(tensor, seat, &x))
        return 0;
    const __typeof__(enter_plain_arithmetic()) before = enter_plain_arithmetic();
    weigh_numbers(seat, &x);
    leave_plain_arithmetic(before);
    return 1;
}

/* The `ml_meth` of a PyCFunction (METH_O): `self` is an int, the address of a wb_hook. Gives None, so that a gradient stays
 * what it is. */
WB_PUBLIC void *wb_meet(void *self, void *tensor)
{
    const wb_hook *hook = (const wb_hook *)(uintptr_t)python->number(self);
    if (hook->seat->pace->mode != WB_REST) {
        const int64_t began = hook->seat->quantity == WB_ACTIVATION_GRADIENT ? wb_now_ns() : 0;
        if (!wb_meet_tensor(hook->seat, tensor)) {
            void *answer = python->call(hook->otherwise, tensor);
            if (answer)
                python->release(answer);
            else
                python->forget_error();
        }
        if (began)
            hook->seat->scene->own_ns += wb_now_ns() - began;
    }
    python->hold(python->none);
    return python->none;
}

/* The same for numbers that Python has brought in order: outer x units x inner of a dtype, at an address. */
WB_PUBLIC void wb_weigh_output(wb_seat *seat, const wb_numbers *x)
{
    const __typeof__(enter_plain_arithmetic()) before = enter_plain_arithmetic();
    weigh_numbers(seat, x);
    leave_plain_arithmetic(before);
}

/* Writes the row of every seat that has weighed something since, and begins anew. Returns how many of the seats were
 * called more than once in this step, or -1, with nothing done, where there is no room for all rows. */
WB_PUBLIC int64_t wb_take_outputs(wb_seat *const *seats, int64_t n, int64_t step, int attempt, wb_block *to)
{
    int64_t rows = 0, counts = 0, repeated = 0;
    for (int64_t i = 0; i < n; i++)
        if (seats[i]->weighed) {
            rows++;
            counts += seats[i]->row.histogram < 0 ? 0 : WB_BINS(seats[i]->row.histogram);
        }
    if (to->rows + rows > to->capacity_rows || to->counts + counts > to->capacity_counts)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        wb_seat *seat = seats[i];
        if (!seat->weighed)
            continue;
        wb_write_output_row(to, step, attempt, seat);
        repeated += seat->weighed > 1;
        seat->weighed = 0;
        seat->count = 0;
    }
    return repeated;
}

WB_PUBLIC int wb_seat_size(void) { return (int)sizeof(wb_seat); }
