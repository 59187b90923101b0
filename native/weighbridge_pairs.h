/* Whether inputs and targets of a batch go together: what capture/pairs.py lays out for weighbridge_pairs.c. */
#ifndef WEIGHBRIDGE_PAIRS_H
#define WEIGHBRIDGE_PAIRS_H

#include <stdint.h>

enum { WB_PAIR_SAMPLES = 64, WB_PAIR_PARTS = 4 }; /* MOST_SAMPLES, MOST_INPUTS in capture/pairing.py */

typedef struct { /* one tensor: [samples, features] */
    const void *values;  /* double, or int64_t where `is_whole` */
    const double *scale; /* of each feature, for what is remembered; NULL = 1 */
    void *memory;        /* of earlier samples, scaled */
    int64_t features, is_whole;
} wb_pair_part;

typedef struct {
    int64_t samples, parts; /* inputs; their targets are the part after them, without scale */
    int64_t begin, end;     /* rows of the memory that are known. The samples are put at `end`, for which there is room */
    int64_t remembers;      /* 0: neighbours are not compared, and nothing is put there */
    int64_t kept;           /* samples, each but once */
    double distance, distance_variance, neighbour, neighbour_variance;
    double *room; /* 3 x samples^2, and samples x features of the widest part */
    wb_pair_part part[WB_PAIR_PARTS + 1];
} wb_pairs;

#endif
