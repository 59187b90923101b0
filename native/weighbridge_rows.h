/* Rows of a block, and whether there is room for them (weighbridge_rows.c). */
#ifndef WEIGHBRIDGE_ROWS_H
#define WEIGHBRIDGE_ROWS_H

#include "weighbridge_kernel.h"

static inline int wb_bins_of(int histogram)
{
    return histogram < 0 ? 0 : WB_BINS(histogram);
}

/* `cross`: of an update; NULL elsewhere. There has to be room. */
void wb_write_row(wb_block *to, int64_t step, int attempt, const wb_item *item, int quantity, const wb_row *row,
                  const wb_cross *cross);

/* Is there room for all of them, whatever their histograms? */
int wb_has_room(const wb_item *items, int64_t n, const wb_block *to, const wb_values *values, int keep);

/* Does it want its values kept in this call? */
int wb_keeps(const wb_item *item, const wb_values *values, int keep);
/* The numbers themselves of a small tensor: before, gradient, update. Before it is weighed, which refreshes the snapshot. */
void wb_keep_values(wb_values *to, int64_t step, int attempt, const wb_item *item);

#endif
