/* Sketches of all gradients of a step with one call; the loops are in weigh_sketch.h. */
#include <stdint.h>

#include "plain_arithmetic.h"
#include "weighbridge_sketch.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

static wb_sketch_one *sketcher(void)
{
#ifdef WB_X86_LEVELS
    if (wb_level() == 2)
        return wb_sketch_one_avx512;
    if (wb_level() == 1)
        return wb_sketch_one_avx2;
#endif
    return wb_sketch_one_plain;
}

WB_PUBLIC void wb_sketch(wb_sketched *items, int64_t n)
{
    wb_sketch_one *const sketch_one = sketcher();
    const __typeof__(enter_plain_arithmetic()) before = enter_plain_arithmetic();
    for (int64_t i = 0; i < n; i++)
        if (items[i].address)
            sketch_one(&items[i]);
    leave_plain_arithmetic(before);
}

WB_PUBLIC int wb_sketched_size(void) { return (int)sizeof(wb_sketched); }
