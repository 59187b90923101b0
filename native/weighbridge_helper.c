/* A thread beside the training's, for a step that is worth it. The caller takes pieces of tensors from the front, the helper
 * from the back, until they meet; so where the helper comes late, or never, the caller has done it all itself, and it waits
 * for one piece at most. All of it happens inside one call: nothing is read once that call has returned. */
#include "weighbridge_helper.h"

#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

/* Columns of a block with one entry a row, the widest first: so each begins where its type wants it. */
#define COLUMNS(X)                                                                                                        \
    X(step) X(count) X(nan) X(pos_inf) X(neg_inf) X(zero) X(subnormal) X(min) X(max) X(sum) X(sum_abs) X(sum_sq)          \
    X(hist_count) X(dot_gradient_parameter) X(dot_gradient_update) X(dot_update_parameter) X(lost) X(tensor) X(attempt)   \
    X(part) X(hist_first) X(quantity) X(hist_bits)

static wb_block apart;
static char *room;
static size_t room_size;

wb_block *wb_block_apart(int64_t rows, int64_t counts, int64_t n, int64_t **first_row, int64_t n_sums, double **sums)
{
    size_t size = 8 + (size_t)n * sizeof **first_row + (size_t)n_sums * sizeof **sums + (size_t)counts * sizeof *apart.hist
        + (size_t)(rows + 1) * sizeof *apart.hist_offsets;
#define ADD(column) size += (size_t)rows * sizeof *apart.column;
    COLUMNS(ADD)
    if (size > room_size) {
        char *const more = realloc(room, size);
        if (!more)
            return NULL;
        room = more;
        room_size = size;
    }
    char *at = room;
#define PLACE(column, entries) (apart.column = (void *)at, at += (size_t)(entries) * sizeof *apart.column);
#define PLACE_ROWS(column) PLACE(column, rows)
    *first_row = (void *)at;
    at += (size_t)n * sizeof **first_row;
    *sums = (void *)at;
    at += (size_t)n_sums * sizeof **sums;
    COLUMNS(PLACE_ROWS)
    /* bytes come last: what follows has to begin where numbers may */
    at = room + ((at - room) + 7) / 8 * 8;
    PLACE(hist, counts)
    PLACE(hist_offsets, rows + 1)
    apart.capacity_rows = rows;
    apart.capacity_counts = counts;
    apart.rows = apart.counts = 0;
    apart.hist_offsets[0] = 0;
    return &apart;
}

void wb_append_rows(wb_block *to, const wb_block *from, int64_t first, int64_t end)
{
    for (int64_t r = first; r < end; r++) {
        const int64_t at = to->rows++;
#define COPY(column) to->column[at] = from->column[r];
        COLUMNS(COPY)
        const int64_t counts = from->hist_offsets[r + 1] - from->hist_offsets[r];
        memcpy(to->hist + to->counts, from->hist + from->hist_offsets[r], (size_t)counts * sizeof *to->hist);
        to->counts += counts;
        to->hist_offsets[at + 1] = (int32_t)to->counts;
    }
}

#if defined(_WIN32)

WB_PUBLIC int wb_helper_start(void) { return 0; }
WB_PUBLIC int64_t wb_helper_ns(void) { return 0; }
int wb_helper_is_free(int waits) { (void)waits; return 0; }
void wb_helper_let_go(void) {}
void wb_share(wb_job *job, int waits) { (void)job; (void)waits; }
int64_t wb_take(wb_job *job, int from_back) { (void)job; (void)from_back; return -1; }
void wb_gather(wb_job *job) { (void)job; }
WB_PUBLIC void wb_helper_gained(int64_t gain) { (void)gain; }

#else

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "plain_arithmetic.h"

/* What the helper has saved, less what it cost to wake it and to wait for it: nanoseconds, of late. Where it is a loss (the
 * other cores are busy, so that the helper rests in the middle of a piece), it is left alone for some calls. */
#define CREDIT 10000000
#define REST 1000
#define SPIN 50000 /* nanoseconds: a piece takes less, and to sleep and be woken takes longer */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    wb_job *job;     /* NULL = nothing to do; under `lock` */
    atomic_int is_at_work; /* set under `lock` */
    pid_t process;   /* in which the thread lives: a fork leaves it behind */
    int64_t credit;  /* of who has taken it, as is */
    int rest;
    atomic_int is_taken; /* by a caller: another one at the same time does its work alone */
    _Atomic int64_t spent;
} helper = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static int64_t thread_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Takes the next piece: from the front, or from the back. -1 = they have met. `ends` holds both, in its halves. */
int64_t wb_take(wb_job *job, int from_back)
{
    uint64_t ends = atomic_load(&job->ends), next;
    do {
        const uint32_t front = (uint32_t)ends, back = (uint32_t)(ends >> 32);
        if (front >= back)
            return -1;
        next = from_back ? (uint64_t)(back - 1) << 32 | front : (uint64_t)back << 32 | (front + 1);
    } while (!atomic_compare_exchange_weak(&job->ends, &ends, next));
    return from_back ? (int64_t)(ends >> 32) - 1 : (int64_t)(uint32_t)ends;
}

static void tell(void) /* whoever waits for the first piece to be taken */
{
    pthread_mutex_lock(&helper.lock);
    pthread_cond_signal(&helper.done);
    pthread_mutex_unlock(&helper.lock);
}

static void *live(void *nothing)
{
    enter_plain_arithmetic();
    pthread_mutex_lock(&helper.lock);
    for (;;) {
        while (!helper.job)
            pthread_cond_wait(&helper.wake, &helper.lock);
        wb_job *const job = helper.job;
        helper.job = NULL;
        helper.is_at_work = 1;
        pthread_mutex_unlock(&helper.lock);
        const int64_t began = thread_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int64_t i; (i = wb_take(job, 1)) >= 0;) {
            if (i == job->n - 1)
                tell();
            job->weigh(job);
        }
        job->helped = thread_ns(CLOCK_THREAD_CPUTIME_ID) - began;
        helper.spent += job->helped;
        pthread_mutex_lock(&helper.lock);
        helper.is_at_work = 0;
        pthread_cond_signal(&helper.done);
    }
    return nothing;
}

/* Starts the thread, once in a process. 1 = it is there. */
WB_PUBLIC int wb_helper_start(void)
{
    if (helper.process == getpid())
        return 1;
    helper.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; /* after a fork, in whatever state they were */
    helper.wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    helper.done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    helper.job = NULL;
    helper.is_at_work = helper.is_taken = helper.rest = 0;
    helper.credit = 0;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program; the new one inherits this */
    const int failed = pthread_create(&thread, NULL, live, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return 0;
    pthread_detach(thread);
    helper.process = getpid();
    return 1;
}

int wb_helper_is_free(int waits)
{
    if (helper.process != getpid() || atomic_exchange(&helper.is_taken, 1))
        return 0;
    if (helper.rest == 0 || waits)
        return 1;
    helper.rest--;
    helper.is_taken = 0;
    return 0;
}

void wb_helper_let_go(void) { helper.is_taken = 0; }

/* Offers the pieces to the helper. `waits`, for tests: until it has come. */
void wb_share(wb_job *job, int waits)
{
    const int64_t began = thread_ns(CLOCK_MONOTONIC);
    pthread_mutex_lock(&helper.lock);
    helper.job = job;
    pthread_cond_signal(&helper.wake);
    while (waits && (helper.job || helper.is_at_work) && (uint32_t)(job->ends >> 32) == job->n)
        pthread_cond_wait(&helper.done, &helper.lock);
    pthread_mutex_unlock(&helper.lock);
    job->cost = waits ? 0 : thread_ns(CLOCK_MONOTONIC) - began;
}

/* Nanoseconds that a call took less with the helper than without. For the caller that has it, and for tests. */
WB_PUBLIC void wb_helper_gained(int64_t gain)
{
    helper.credit = helper.credit + gain < CREDIT ? helper.credit + gain : CREDIT;
    if (helper.credit < -CREDIT) {
        helper.credit = 0;
        helper.rest = REST;
    }
}

/* All pieces are taken: waits for the one that the helper is at. */
void wb_gather(wb_job *job)
{
    const int64_t ready = thread_ns(CLOCK_MONOTONIC);
    pthread_mutex_lock(&helper.lock);
    helper.job = NULL; /* it has not even begun */
    pthread_mutex_unlock(&helper.lock);
    int64_t waited = 0;
    while (helper.is_at_work && waited < SPIN)
        waited = thread_ns(CLOCK_MONOTONIC) - ready;
    pthread_mutex_lock(&helper.lock);
    while (helper.is_at_work)
        pthread_cond_wait(&helper.done, &helper.lock);
    pthread_mutex_unlock(&helper.lock);
    wb_helper_gained(job->helped - job->cost - (thread_ns(CLOCK_MONOTONIC) - ready));
}

WB_PUBLIC int64_t wb_helper_ns(void) { return helper.spent; }

#endif
