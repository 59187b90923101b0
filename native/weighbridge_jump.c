/* Has a step jumped against those before it? capture/jumps.py says what for, and what follows from it. */
#include <math.h>

#include "weighbridge_jump.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

enum { FEW = 10 };              /* steps that are no past yet */
static const double FACTOR = 9; /* of squares: three times a norm, or the loss, against the largest before */
static const double MOVED = 0.21; /* of the parameters' squared norm from step to step: 10 % of the norm; steps are 0.1 % */

/* Is this one far above all before it? It is one of them from now on. `kept`: what of the largest counts in the next step. */
static int is_above(double *largest, double now, double kept)
{
    const int jumped = *largest > 0 && now > FACTOR * *largest;
    const double faded = kept * *largest;
    if (isfinite(now))
        *largest = now > faded ? now : faded;
    return jumped;
}

/* The rows from `first` on are those of a step with this loss (NaN = not known). */
WB_PUBLIC int wb_has_jumped(wb_past *past, const wb_block *block, int64_t first, double loss)
{
    double sums[3] = {0, 0, 0};
    for (int64_t row = first; row < block->rows; row++)
        if (block->quantity[row] <= WB_UPDATE)
            sums[block->quantity[row]] += block->sum_sq[row];
    /* A norm fades as 1 over the number of steps: what varies at random jumps once in each threefold of them, not all the time,
     * and what falls as the training goes on is soon forgotten. */
    const double share = past->steps / (past->steps + 1.0), kept = share * share;
    int jumped = is_above(&past->gradient, sums[WB_GRADIENT], kept);
    jumped |= is_above(&past->update, sums[WB_UPDATE], kept);
    jumped |= is_above(&past->loss, loss > 0 ? loss * loss : NAN, kept);
    jumped |= past->parameter > 0 && fabs(sums[WB_PARAMETER] - past->parameter) > MOVED * past->parameter;
    past->parameter = sums[WB_PARAMETER];
    return past->steps++ >= FEW && jumped;
}
