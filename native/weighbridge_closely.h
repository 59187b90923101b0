/* A closer look at one output, at the steps at which units are due: what capture/closely.py lays out, and asks for. */
#ifndef WEIGHBRIDGE_CLOSELY_H
#define WEIGHBRIDGE_CLOSELY_H

#include <stdint.h>

enum { WB_SPREAD_SAMPLES = 32, WB_SPREAD_POSITIONS = 8, WB_SPREAD_FEATURES = 128, WB_SPREAD_VECTORS = 64 }; /* capture/spread.py */
enum { WB_BEND_SAMPLES = 64, WB_BEND_POSITIONS = 8, WB_BEND_FEATURES = 1024 };                              /* capture/bends.py */
enum { WB_TANH, WB_SIGMOID, WB_RELU, WB_GELU, WB_SILU, WB_HARDTANH };

typedef struct { /* of Y [samples, positions, features]; Spread in capture/spread.py says what each is */
    int32_t axis;    /* of the features: 1, or -1 for the last */
    int32_t is_there; /* 0: fewer than two samples, nothing at all, or a number that is not finite */
    int64_t samples, positions, features, vectors;
    double sum_sq, sample_sq, position_sq, trace, trace_sq;
    double *room; /* two times Y, and a mean of it */
} wb_spread;

typedef struct { /* how much of a result lies where its function is flat */
    int32_t function;
    float low, high; /* of WB_HARDTANH */
    double flat, flat_units, asleep_units;
    int32_t *room; /* of WB_BEND_FEATURES */
} wb_bend;

typedef struct { /* what a bias adds beside W.x (capture/biases.py) */
    const struct wb_seat *seat;
    const double *sum_before, *sum_sq_before; /* of each unit, when the step began */
    int64_t count;                            /* numbers of each unit since */
    double bias_sq, rest_sq, cross;
} wb_bias;

#endif
