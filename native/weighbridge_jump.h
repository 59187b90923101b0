/* Has a step jumped against those before it? Asked of what was weighed anyhow, so that a closer look can follow at once. */
#ifndef WEIGHBRIDGE_JUMP_H
#define WEIGHBRIDGE_JUMP_H

#include <stdint.h>

#include "weighbridge_kernel.h"

typedef struct { /* Past in src/weighbridge/capture/jumps.py: of one optimizer's steps */
    double gradient, update, loss; /* the largest of the last steps, of all tensors together, squared */
    double parameter;              /* the squared norm of the parameters at the last step */
    int64_t steps;                 /* seen */
} wb_past;

int wb_has_jumped(wb_past *past, const wb_block *block, int64_t first, double loss);

#endif
