/* Pieces of a step's tensors, weighed by two threads (weighbridge_helper.c). */
#ifndef WEIGHBRIDGE_HELPER_H
#define WEIGHBRIDGE_HELPER_H

#include <stdatomic.h>
#include <stdint.h>

#include "weighbridge_kernel.h"

typedef struct wb_job wb_job;
struct wb_job {
    void (*weigh)(wb_job *job); /* the helper's next piece, from the back */
    int64_t n;                  /* pieces */
    _Atomic uint64_t ends;      /* pieces not taken: from the low half up to the high half */
    int64_t helped, cost;       /* nanoseconds: what the helper worked; what it took to wake it */
};

int wb_helper_is_free(int waits); /* 1 = it is the caller's, until */
void wb_helper_let_go(void);
void wb_share(wb_job *job, int waits);
int64_t wb_take(wb_job *job, int from_back); /* the next piece, or -1 = they have met */
void wb_gather(wb_job *job);

/* Room for the helper's rows, kept from step to step; NULL = there is no memory. `first_row`: one for each of n items;
 * `sums`: so many. */
wb_block *wb_block_apart(int64_t rows, int64_t counts, int64_t n, int64_t **first_row, int64_t n_sums, double **sums);
void wb_append_rows(wb_block *to, const wb_block *from, int64_t first, int64_t end);

#endif
