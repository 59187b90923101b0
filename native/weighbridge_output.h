/* What modules give (activations) and the loss's gradient by it, weighed while a forward or backward pass runs.
 * src/weighbridge/capture/seats.py lays out the same bytes. */
#ifndef WEIGHBRIDGE_OUTPUT_H
#define WEIGHBRIDGE_OUTPUT_H

#include "weighbridge_kernel.h"

enum { WB_REST = 0, WB_GUARD = 1, WB_WEIGH = 2 }; /* nothing; look for NaN and infinity; that, and the whole row */
/* The gradients by outputs are wanted too, and Python asks autograd for them; Python looks at the outputs themselves. */
enum { WB_FOLLOWS = 1, WB_BY_PYTHON = 2 };

typedef struct wb_seat wb_seat;

typedef struct { /* one for all outputs of a run */
    int32_t place;   /* how many outputs of this step had something that is not finite */
    int32_t flagged; /* the same, until Python has noted them */
    int64_t own_ns;  /* spent on gradients; Python counts what its own hooks spend */
    uint64_t last;   /* where the numbers lie that were met last, */
    int64_t count;   /* and how many they are */
    wb_seat *batch;  /* what comes into the model */
    int32_t awaits_batch; /* the next module that is called gets it */
    int64_t samples; /* that the first module of this pass was called with; 0 = none was called yet, or it is not known */
} wb_scene;

typedef struct { /* one for the modules of an optimizer */
    int32_t mode;
    int32_t stamp; /* moves on with every step: what a seat holds of an earlier one is stale */
    int32_t histogram; /* of the rows: mantissa bits, or -1 = none */
    int32_t follows;   /* WB_FOLLOWS or WB_BY_PYTHON; 0 = neither */
} wb_pace;

struct wb_seat { /* one output of one module, or its gradient */
    wb_scene *scene;
    wb_pace *pace;
    int32_t tensor, quantity;
    int32_t stamp;
    int32_t calls;          /* in this step */
    int32_t nonfinite_call; /* -1 = none */
    int32_t place;
    int32_t weighed; /* calls in `row` */
    int32_t axis;    /* of the units: 1, or -1 for the last */
    int64_t count;   /* elements in `row` */
    int64_t units;   /* 0 = not taken apart */
    int64_t unit_count; /* numbers of each unit in the sums below */
    int64_t *active;
    double *sum, *sum_sq;
    float *max;
    wb_row row;
};

typedef struct { /* a tensor's numbers in C order */
    const void *data;
    int64_t count, outer, units, inner; /* outer x units x inner */
    int dtype;
} wb_numbers;

typedef int wb_any_nonfinite(const wb_numbers *x);
typedef void wb_add_output(const wb_numbers *x, wb_row *row);
typedef void wb_add_units(const wb_numbers *x, wb_seat *seat);

typedef void wb_start_output(wb_row *row, int histogram);

typedef struct {
    wb_any_nonfinite *any_nonfinite;
    wb_start_output *start;
    wb_add_output *add;
    wb_add_units *add_units;
} wb_output_level;

extern const wb_output_level wb_output_level_plain;
#ifdef WB_X86_LEVELS
extern const wb_output_level wb_output_level_avx2, wb_output_level_avx512;
#endif

int wb_meet_tensor(wb_seat *seat, void *tensor); /* 0, with nothing done, where it cannot be read where it lies */
int64_t wb_now_ns(void);
int wb_level(void); /* the instruction level in use: 0 plain, 1, 2 */
void wb_write_output_row(wb_block *to, int64_t step, int attempt, const wb_seat *seat);

#endif
