/* What has been weighed, written into the columns: a row's numbers, its histogram without the empty bins at either end, and
 * the values themselves of small tensors. */
#include <math.h>
#include <string.h>

#include "weighbridge_output.h"
#include "weighbridge_rows.h"

static void write_histogram(wb_block *to, const wb_row *row, int64_t r)
{
    uint32_t sum[WB_BINS(0)];
    const uint32_t *counts = row->bins[0];
    if (row->tables == WB_TABLES && row->histogram == 0) {
        for (int b = 0; b < WB_BINS(0); b++)
            sum[b] = row->bins[0][b] + row->bins[1][b] + row->bins[2][b] + row->bins[3][b];
        counts = sum;
    }
    const int bins = row->looked_at ? wb_bins_of(row->histogram) : 0, empty = bins ? WB_OCTAVES + 1 - row->octave : 0;
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

void wb_write_row(wb_block *to, int64_t step, int attempt, const wb_item *item, int quantity, const wb_row *row,
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
    wb_write_row(to, step, attempt, &item, seat->quantity, &seat->row, NULL);
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

void wb_keep_values(wb_values *to, int64_t step, int attempt, const wb_item *item)
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

int wb_keeps(const wb_item *item, const wb_values *values, int keep)
{
    return values && item->snapshot && (item->values & keep);
}

int wb_has_room(const wb_item *items, int64_t n, const wb_block *to, const wb_values *values, int keep)
{
    int64_t rows = to->rows, counts = to->counts, values_rows = 0, values_bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        const int of_item = items[i].snapshot ? 3 : 1;
        rows += of_item;
        counts += of_item * wb_bins_of(items[i].histogram);
        if (wb_keeps(&items[i], values, keep)) {
            values_rows += 3;
            values_bytes += 3 * items[i].count * (int64_t)sizeof(float);
        }
    }
    return rows <= to->capacity_rows && counts <= to->capacity_counts
        && (!values
            || (values->rows + values_rows <= values->capacity_rows
                && values->bytes + values_bytes <= values->capacity_bytes));
}
