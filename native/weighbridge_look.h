/* What C asks of torch and Python. The library is linked against neither: Python lends the few functions it takes
 * (capture/addresses.py), torch's own being DLPack's exchange table. Call with the GIL held. */
#ifndef WEIGHBRIDGE_LOOK_H
#define WEIGHBRIDGE_LOOK_H

#include <stdint.h>

typedef struct { /* DLTensor of DLPack 1.x */
    void *data;
    int32_t device, device_id, dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
} dl_tensor;

typedef struct {
    int (*describe)(void *object, dl_tensor *to);
    void *(*attribute)(void *object, void *name);
    long long (*number)(void *object);
    void (*release)(void *object);
    void (*forget_error)(void);
    void *none, *gradient, *version; /* None, "grad", "_version" */
    void (*hold)(void *object);
    void *(*call)(void *callable, void *argument);
    void *(*call_nothing)(void *callable);
    void *(*type_of)(void *object);
    intptr_t (*tuple_size)(void *tuple);
    void *(*tuple_item)(void *tuple, intptr_t i); /* borrowed */
    void *yes, *no, *training; /* True, False, "training" */
    void *tensor_type;         /* torch.Tensor, and functions of torch that take nothing: */
    void *is_grad_enabled, *tracing_state, *graph_task;
} wb_python;

const wb_python *wb_lent(void); /* what Python has lent for hooks */

int wb_describe(const wb_python *python, void *object, dl_tensor *t); /* 0 where it does not lie in CPU memory as it is */
int wb_dtype_of(const dl_tensor *t);                                  /* WB_F32, ..., or -1 */
int64_t wb_count_of(const dl_tensor *t, int *in_order);

#endif
