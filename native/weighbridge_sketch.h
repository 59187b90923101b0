/* Gradients of two steps are compared by what is kept of each: its elements, or a linear sketch of 1,024 numbers. */
#ifndef WEIGHBRIDGE_SKETCH_H
#define WEIGHBRIDGE_SKETCH_H

#include <stdint.h>

#define WB_SKETCH 1024 /* numbers of a sketch, and elements of a row of it */

typedef struct { /* SKETCHED in src/weighbridge/capture/sketch.py */
    uint64_t address; /* of the elements, in C order; 0 = there are none, and nothing is written */
    int64_t count;
    uint64_t kept;   /* address of `numbers` doubles; 0 = only the sums */
    int32_t dtype;
    int32_t numbers; /* `count`: the elements themselves; WB_SKETCH: a sketch of them */
    double sum_sq, sum_abs; /* over all elements: NaN or infinite where one of them is */
} wb_sketched;

typedef void wb_sketch_one(wb_sketched *item);

wb_sketch_one wb_sketch_one_plain;
#ifdef WB_X86_LEVELS
wb_sketch_one wb_sketch_one_avx2, wb_sketch_one_avx512;
#endif

int wb_level(void); /* the instruction level in use: 0 plain, 1, 2 */

#endif
