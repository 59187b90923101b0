/* Where a step's tensors lie, asked of torch from C: a thousand parameters cost Python more to ask than to weigh. */
#include <stddef.h>

#include "weighbridge_kernel.h"
#include "weighbridge_look.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

enum { ON_CPU = 1, IS_FLOAT = 2, IS_BFLOAT = 4, IS_COMPLEX = 5 }; /* DLPack's codes */

int wb_dtype_of(const dl_tensor *t)
{
    if (t->code == IS_BFLOAT)
        return t->bits == 16 ? WB_BF16 : -1;
    const int bits = t->code == IS_COMPLEX ? t->bits / 2 : t->code == IS_FLOAT ? t->bits : 0;
    return bits == 32 ? WB_F32 : bits == 64 ? WB_F64 : bits == 16 ? WB_F16 : -1;
}

/* Real numbers in it, and whether they lie in C order. */
int64_t wb_count_of(const dl_tensor *t, int *in_order)
{
    int64_t count = 1;
    *in_order = t->code != IS_COMPLEX;
    for (int d = t->dimensions - 1; d >= 0; d--) {
        if (t->shape[d] != 1 && t->strides && t->strides[d] != count)
            *in_order = 0;
        count *= t->shape[d];
    }
    return t->code == IS_COMPLEX ? count * 2 : count;
}

int wb_describe(const wb_python *python, void *object, dl_tensor *t)
{
    if (python->describe(object, t) == 0)
        return t->device == ON_CPU && t->lanes == 1;
    python->forget_error();
    return 0;
}

/* `had_no_address`: torch refused to describe its gradient once (a sparse one). Each refusal is an exception of torch's, a
 * millisecond of walking the stack, so that parameter's gradients are Python's from then on. */
static int look_at_gradient(const wb_python *python, void *object, int is_plain, int had_no_address, wb_item *item)
{
    void *gradient = python->attribute(object, python->gradient);
    if (!gradient) {
        python->forget_error();
        return WB_GRADIENT_UNREAD;
    }
    int state = 0, in_order;
    dl_tensor t;
    if (gradient == python->none) {
        state = item->gradient ? WB_GRADIENT_GONE : 0;
        item->gradient = 0;
    }
    else if (!is_plain || had_no_address)
        state = WB_GRADIENT_UNREAD | had_no_address;
    else if (!wb_describe(python, gradient, &t))
        state = WB_GRADIENT_UNREAD | WB_NO_ADDRESS;
    else if (wb_dtype_of(&t) >= 0 && wb_count_of(&t, &in_order) == item->count && in_order) {
        state = item->gradient ? 0 : WB_GRADIENT_CAME;
        item->gradient = (uint64_t)(uintptr_t)t.data + t.offset;
        if (!item->gradient)
            item->gradient = item->snapshot; /* nothing to read, but there is a gradient */
        item->gradient_dtype = wb_dtype_of(&t);
    } else
        state = WB_GRADIENT_UNREAD;
    python->release(gradient);
    return state;
}

/* Does the parameter lie elsewhere, or has it another form than its item says? */
static int is_elsewhere(const wb_python *python, void *object, int is_plain, const wb_item *item)
{
    dl_tensor t;
    int in_order;
    return !wb_describe(python, object, &t) || wb_dtype_of(&t) != item->dtype || wb_count_of(&t, &in_order) != item->count
        || (is_plain && !in_order) || (uint64_t)(uintptr_t)t.data + t.offset != item->parameter;
}

static int64_t version_of(const wb_python *python, void *object)
{
    void *const number = python->attribute(object, python->version);
    if (!number) {
        python->forget_error();
        return -1;
    }
    const int64_t version = python->number(number);
    python->release(number);
    return version;
}

/* Asks every object for its address, for its gradient if `gradients`, and for its version where its bytes are not compared: where
 * they are, they say more. state[i] says what Python has to look at itself; the result is all of them together. */
WB_PUBLIC int wb_look(const wb_asked *asked, int gradients)
{
    const wb_python *const python = asked->python;
    wb_item *const items = asked->items;
    uint8_t *const state = asked->state;
    int all = 0;
    for (int64_t i = 0; i < asked->count; i++) {
        void *const object = asked->objects[i];
        const int plain = asked->plain[i], had_no_address = state[i] & WB_NO_ADDRESS;
        state[i] = (uint8_t)had_no_address;
        if (plain != WB_GATHERED && is_elsewhere(python, object, plain == WB_PLAIN, &items[i]))
            state[i] |= WB_MOVED;
        if (i >= asked->compared || plain == WB_GATHERED) {
            const int64_t version = version_of(python, object);
            if (version != asked->versions[i])
                state[i] |= WB_CHANGED;
            asked->versions[i] = version;
        } else if (!gradients && !(state[i] & WB_MOVED) && wb_differs(&items[i]))
            state[i] |= WB_DIFFERS;
        if (gradients)
            state[i] |= look_at_gradient(python, object, plain == WB_PLAIN, had_no_address, &items[i]);
        all |= state[i] & ~WB_NO_ADDRESS;
    }
    return all;
}
