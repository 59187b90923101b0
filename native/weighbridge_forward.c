/* The usual way through a forward hook, in C: a module that gave one tensor before, in training, gives one again. Whatever
 * is not usual is left to Python (capture/outputhook.py), which asks the same questions in the same order. */
#include <stddef.h>
#include <time.h>

#include "weighbridge_look.h"
#include "weighbridge_output.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

typedef struct { /* ForwardState in capture/seats.py */
    wb_seat *seat;      /* NULL = nothing is usual yet */
    void *root, *module; /* weak references */
    int32_t met_at;     /* the step in which it was last met outside of a backward pass */
    int32_t samples_axis; /* of what it is called with; -1 = it has a hook at some steps only, and counts none */
} wb_forward;

enum { REFUSED = -1, NO = 0, YES = 1 };

static int is(const wb_python *python, void *object, const void *wanted)
{
    if (!object) {
        python->forget_error();
        return REFUSED;
    }
    python->release(object);
    return object == wanted;
}

/* Is this a call of the module itself, by a model in training, with gradients, and not while torch.jit traces? */
static int is_training(const wb_python *python, const wb_forward *forward, const void *module)
{
    void *const root = python->call_nothing(forward->root);
    if (!root) {
        python->forget_error();
        return REFUSED;
    }
    int found = root == python->none ? NO : is(python, python->attribute(root, python->training), python->yes);
    python->release(root);
    if (found == YES)
        found = is(python, python->call_nothing(python->is_grad_enabled), python->yes);
    if (found == YES)
        found = is(python, python->call_nothing(forward->module), module);
    if (found == YES)
        found = is(python, python->call_nothing(python->tracing_state), python->none);
    return found;
}

/* A checkpoint computes anew, inside a backward pass, what was met before. */
static int is_repeated(const wb_python *python, wb_forward *forward)
{
    void *const number = python->call_nothing(python->graph_task);
    if (!number) {
        python->forget_error();
        return REFUSED;
    }
    const long long task = python->number(number);
    python->release(number);
    if (task != -1)
        return forward->met_at == forward->seat->pace->stamp;
    forward->met_at = forward->seat->pace->stamp;
    return NO;
}

/* The first module of a pass says of how many samples it is. A module of a checkpoint that is met in the backward pass does not:
 * that would be the next pass's. */
static void count_samples(const wb_python *python, const wb_forward *forward, void *arguments)
{
    wb_scene *const scene = forward->seat->scene;
    const int axis = forward->samples_axis;
    dl_tensor t;
    if (scene->samples || axis < 0 || forward->met_at != forward->seat->pace->stamp)
        return;
    if (python->tuple_size(arguments) < 1) {
        python->forget_error();
        return;
    }
    void *const batch = python->tuple_item(arguments, 0);
    if (is(python, python->type_of(batch), python->tensor_type) == YES && wb_describe(python, batch, &t)
        && t.dimensions > 2 * axis)
        scene->samples = t.shape[axis];
}

/* The first module of a pass was called with the batch: one tensor. */
static int meet_batch(const wb_python *python, wb_scene *scene, void *arguments)
{
    if (python->tuple_size(arguments) != 1) {
        python->forget_error(); /* there is one if it is no tuple */
        return 0;
    }
    void *const batch = python->tuple_item(arguments, 0);
    if (is(python, python->type_of(batch), python->tensor_type) != YES || !wb_meet_tensor(scene->batch, batch))
        return 0;
    scene->awaits_batch = 0;
    return 1;
}

/* A module (`given[0]`) was called with arguments (1) and gave something (2). True: all is done. None: all but to follow the
 * gradient by it, which Python asks autograd for. False: Python has to look at it. */
WB_PUBLIC void *wb_forward_hook(void *self, void *const *given, intptr_t n)
{
    const wb_python *const python = wb_lent();
    wb_forward *const forward = (wb_forward *)(uintptr_t)python->number(self);
    int done = n == 3 && forward->seat && forward->seat->pace->follows != WB_BY_PYTHON, follows = 0;
    if (done) {
        const int64_t began = wb_now_ns();
        wb_scene *const scene = forward->seat->scene;
        const int trains = is_training(python, forward, given[0]);
        if (trains == YES) {
            const int repeated = is_repeated(python, forward);
            done = repeated == YES
                || (repeated == NO && is(python, python->type_of(given[2]), python->tensor_type) == YES
                    && (!scene->awaits_batch || meet_batch(python, scene, given[1])) && wb_meet_tensor(forward->seat, given[2]));
            if (done && repeated == NO) {
                count_samples(python, forward, given[1]);
                follows = forward->seat->pace->follows;
            }
        } else
            done = trains == NO;
        forward->seat->scene->own_ns += wb_now_ns() - began;
    }
    void *const answer = !done ? python->no : follows ? python->none : python->yes;
    python->hold(answer);
    return answer;
}
