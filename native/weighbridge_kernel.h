/* weighbridge's summary kernel: the records that Python hands over (src/weighbridge/capture/kernel.py and
 * rowblock.py lay out the same bytes) and the sums that one instruction level hands back to the dispatcher.
 * Change WB_ABI with any change of wb_item, wb_block or of an exported function. */
#ifndef WEIGHBRIDGE_KERNEL_H
#define WEIGHBRIDGE_KERNEL_H

#include <stdint.h>

#define WB_ABI 9

enum { WB_F32 = 0, WB_F64 = 1, WB_F16 = 2, WB_BF16 = 3 };
enum { WB_PARAMETER = 0, WB_GRADIENT = 1, WB_UPDATE = 2, WB_ACTIVATION_GRADIENT = 6 };
enum { WB_GATHERED = 0, WB_DIRECT = 1, WB_PLAIN = 2 };        /* how a parameter's numbers are reached */
/* What wb_look found: bits. */
enum { WB_MOVED = 1, WB_CHANGED = 2, WB_GRADIENT_UNREAD = 4, WB_DIFFERS = 8, WB_NO_ADDRESS = 16, WB_GRADIENT_GONE = 32, WB_GRADIENT_CAME = 64 };

#define WB_OCTAVES 64        /* records.py: 2^-40 .. 2^24 on each side, with a bin below and one above */
#define WB_SIDE(bits) (2 + (WB_OCTAVES << (bits)))
#define WB_BINS(bits) (2 * WB_SIDE(bits)) /* 132, 260 or 516 for 0, 1 or 2 mantissa bits */
#define WB_NO_BIN 132        /* where zeros and non-finite elements are counted, and forgotten */
#define WB_NO_FINE_BIN 543   /* the same in the one table of a finer histogram */
#define WB_TABLE 136         /* one table of counts, padded */
#define WB_TABLES 4          /* neighbours often share a bin; four tables keep increments from waiting for each other */
#define WB_WHOLE_BELOW 65536 /* elements: smaller tensors have all of their elements in the histogram */
#define WB_LINE 64           /* bytes: above, every eighth line of this size */
#define WB_STRIDE 8

/* Elements in one block: what is read, the update and the bins of a block stay in a first-level cache. A multiple of
 * the histogram's period (8 lines of 32 half-precision elements), so that every block begins with a line looked at. */
#define WB_BLOCK 1024
#define WB_PIECE (16 * WB_BLOCK) /* elements that one of two threads takes at once: about 15 us */

typedef struct wb_item {
    uint64_t parameter; /* address, after the step */
    uint64_t snapshot;  /* address of the copy from before; 0 = weigh `parameter` alone, as `quantity` */
    uint64_t gradient;  /* address; 0 = none */
    int64_t count;      /* elements */
    int32_t dtype, gradient_dtype, tensor, quantity;
    int32_t values; /* on which steps the numbers themselves are kept: bits of `keep`; float parameter and gradient only */
    int16_t skip;   /* which rows of a step are not written, as bits 1 << quantity */
    int16_t histogram; /* mantissa bits 0, 1 or 2; -1 = no histogram */
} wb_item;

typedef struct { /* columns of the table of values; the dtype is float32 throughout */
    int64_t capacity_rows, capacity_bytes, rows, bytes;
    int64_t *step;
    int16_t *attempt;
    int32_t *tensor;
    int8_t *quantity;
    int32_t *offsets; /* one more than rows: an Arrow binary column */
    uint8_t *data;
} wb_values;

typedef struct {
    int64_t capacity_rows, capacity_counts, rows, counts;
    int64_t *step;
    int16_t *attempt;
    int32_t *tensor;
    int8_t *quantity;
    int16_t *part;
    int64_t *count, *nan, *pos_inf, *neg_inf, *zero, *subnormal;
    double *min, *max, *sum, *sum_abs, *sum_sq;
    int64_t *hist_count;
    int8_t *hist_bits;
    int16_t *hist_first;
    int32_t *hist_offsets; /* one more than rows: an Arrow list column */
    uint32_t *hist;
    double *dot_gradient_parameter, *dot_gradient_update, *dot_update_parameter;
    int64_t *lost;
} wb_block;

/* The sums of one row while its tensor is walked over. */
typedef struct {
    int64_t nan, pos_inf, neg_inf, zero, subnormal, looked_at;
    double min, max, sum, sum_abs, sum_sq;
    int histogram; /* as in wb_item. A finer one takes all tables of `bins` for its one */
    int octave;    /* no bin beyond it is occupied, on both sides; of the finer histograms it says nothing */
    int tables;    /* how many of `bins` are in use */
    uint32_t bins[WB_TABLES][WB_TABLE];
} wb_row;

typedef struct {
    double gradient_parameter, gradient_update, update_parameter;
    int64_t lost;
} wb_cross;

/* rows: [0] the tensor alone or the parameter before, [1] gradient, [2] update. A first piece begins them anew; each adds
 * its counts, extremes and bins, and leaves its own sums alone in them. */
typedef void wb_begin_item(const wb_item *item, wb_row rows[3], wb_cross *cross);
/* Elements from `first`, a multiple of WB_PIECE, to `end`. Refreshes the snapshot. */
typedef void wb_weigh_piece(const wb_item *item, int64_t first, int64_t end, wb_row rows[3], wb_cross *cross);

typedef struct {
    wb_begin_item *begin;
    wb_weigh_piece *weigh;
} wb_item_level;

int wb_weigh(const wb_item *items, int64_t n, int64_t step, int attempt, wb_block *to, wb_values *values, int keep, int shares);
int wb_differs(const wb_item *item); /* the parameter's bytes from its snapshot's */

extern const wb_item_level wb_item_level_plain;
#ifdef WB_X86_LEVELS
extern const wb_item_level wb_item_level_avx2, wb_item_level_avx512;
#endif

#endif
