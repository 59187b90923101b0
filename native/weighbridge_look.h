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
    intptr_t (*list_size)(void *list);
    void *(*list_item)(void *list, intptr_t i);     /* borrowed */
    void *(*dict_item)(void *dictionary, void *key); /* borrowed; NULL, without an error, where it is not there */
    double (*real)(void *object);
    void *float_type, *int_type, *tuple_type;
    /* names: "__dict__", "param_groups", "params", "lr", "momentum", "betas", "weight_decay", "found_inf", "grad_fn" */
    void *own, *groups, *parameters, *rate, *momentum, *betas, *decay, *found_inf, *node, *reduction; /* "_saved_reduction" */
} wb_python;

typedef struct { /* all that is asked about one optimizer's parameters; one pointer is quicker to pass than nine */
    const wb_python *python;
    void *const *objects;
    const uint8_t *plain; /* WB_GATHERED, WB_DIRECT or WB_PLAIN */
    struct wb_item *items;
    int64_t *versions; /* when last asked */
    uint8_t *state;
    int64_t count, compared; /* of the first `compared` the bytes are compared too, before a step */
} wb_asked;

int wb_look(const wb_asked *asked, int gradients);

const wb_python *wb_lent(void); /* what Python has lent for hooks */

int wb_describe(const wb_python *python, void *object, dl_tensor *t); /* 0 where it does not lie in CPU memory as it is */
int wb_dtype_of(const dl_tensor *t);                                  /* WB_F32, ..., or -1 */
int64_t wb_count_of(const dl_tensor *t, int *in_order);

#endif
