/* Items of a step, weighed by two threads (weighbridge_helper.c). */
#ifndef WEIGHBRIDGE_HELPER_H
#define WEIGHBRIDGE_HELPER_H

#include <stdatomic.h>
#include <stdint.h>

#include "weighbridge_kernel.h"

typedef struct wb_job wb_job;
struct wb_job {
    void (*weigh)(wb_job *job, int64_t i, int by_helper);
    int64_t n;
    _Atomic uint64_t ends; /* items not taken: from the low half up to the high half */
    int64_t began;
};

int wb_helper_is_free(void); /* 1 = it is the caller's, until */
void wb_helper_let_go(void);
void wb_share(wb_job *job, int waits);
int64_t wb_take(wb_job *job, int from_back);
void wb_gather(wb_job *job);

/* Room for the helper's rows, kept from step to step; NULL = there is no memory. `first_row`: one for each of n items. */
wb_block *wb_block_apart(int64_t rows, int64_t counts, int64_t n, int64_t **first_row);
void wb_append_rows(wb_block *to, const wb_block *from, int64_t first, int64_t end);

#endif
