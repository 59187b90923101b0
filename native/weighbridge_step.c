/* The usual step in C: a loss goes backward, an optimizer steps, and everything is as it was at the step before. Python
 * (capture/usual.py) says for how many steps that can hold, and takes over, with all that was noted here, at the first thing
 * that is not usual. The order of the questions is Python's own (capture/stepper.py). Call with the GIL held. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "weighbridge_jump.h"
#include "weighbridge_look.h"
#include "weighbridge_output.h"

#if defined(_WIN32)
#define WB_PUBLIC __declspec(dllexport)
#else
#define WB_PUBLIC __attribute__((visibility("default")))
#endif

enum { OFF = 0, READY = 1, PASSED = 2, INSIDE = 3 }; /* nothing is usual; between steps; after a backward pass; in a step */
enum { LOSSES = 4, PER_GROUP = 3, SUM = 2 };          /* kinds of losses known; lr, momentum, weight decay; torch's reduction */

typedef struct { /* a parameter group */
    void *group, *parameters; /* the dictionary, and its list */
    int64_t count;
} wb_group;

typedef struct { /* UsualState in capture/usual.py */
    int32_t phase;
    int32_t found;        /* by wb_look, and still to be settled; -1 = nothing */
    int64_t clock, until; /* the last step, and the first one that is not ours */
    int64_t done, room;   /* steps noted below, and how many can be */
    int64_t own_ns;       /* spent since the last row */
    int64_t last_ns;      /* when the last step ended */
    int64_t hand_over_ns; /* when Python wants to hand over, */
    int64_t pause_at;     /* and the first step at whose end it has to see to the outputs */
    double loss;
    int64_t samples;
    void *losses[LOSSES]; /* types of a loss's node that leave nothing to look at, */
    int32_t averages[LOSSES]; /* or, where this is 1, nothing if it is a mean */
    void *optimizer, *groups;
    const wb_group *group;
    int64_t group_count;
    void *const *members; /* of all groups, one after another */
    const wb_asked *asked;
    wb_block *block;
    wb_values *values;
    wb_past *past; /* NULL = nobody asks whether a step jumps */
    int32_t keep, shares, attempt, sentinel;
    wb_scene *scene; /* NULL = no outputs are watched */
    wb_pace *forward, *backward, *batch;
    void *model; /* a weak reference; NULL = nobody asks for its mode */
    void *emptied; /* a parameter whose gradient of the last step has to be gone when a pass begins; NULL = nobody asks */
    int32_t jumped; /* has the last step? Python is told by the answer None */
    double *loss_of; /* of each step done: its loss, */
    int64_t *time_of, *own_of, *samples_of; /* when it ended, what it cost us, of how many samples it was, */
    double *settings_of; /* and PER_GROUP numbers of each group */
} wb_usual;

static wb_usual *usual_at(void *self)
{
    return (wb_usual *)(uintptr_t)wb_lent()->number(self);
}

static void *answer(int is_done)
{
    void *const object = is_done ? wb_lent()->yes : wb_lent()->no;
    wb_lent()->hold(object);
    return object;
}

/* Is this object of exactly this type? `object` is borrowed. */
static int is_of(const wb_python *python, void *object, const void *type)
{
    void *const found = python->type_of(object);
    python->release(found);
    return found == type;
}

static void *borrowed_attribute(const wb_python *python, void *object, void *name)
{
    void *const found = python->attribute(object, name);
    if (found)
        python->release(found); /* the object keeps it */
    else
        python->forget_error();
    return found;
}

/* ---- a backward pass begins ---- */

static int is_mean(const wb_python *python, void *node)
{
    void *const number = python->attribute(node, python->reduction);
    if (!number) {
        python->forget_error();
        return 0;
    }
    const long long reduction = python->number(number);
    python->release(number);
    return reduction != SUM;
}

/* Is it a loss of which nothing but its value is asked: no scale, no share, no sum of targets? */
static int is_bare(const wb_python *python, const wb_usual *usual, void *loss)
{
    void *const node = python->attribute(loss, python->node);
    if (!node) {
        python->forget_error();
        return 0;
    }
    void *const type = python->type_of(node);
    int bare = 0;
    for (int i = 0; i < LOSSES && !bare; i++)
        bare = usual->losses[i] == type && (!usual->averages[i] || is_mean(python, node));
    python->release(type);
    python->release(node);
    return bare;
}

static int read_loss(const wb_python *python, void *loss, double *value)
{
    dl_tensor t;
    int in_order;
    if (!is_of(python, loss, python->tensor_type) || !wb_describe(python, loss, &t) || t.code != 2 /* real */
        || wb_count_of(&t, &in_order) != 1)
        return 0;
    const char *const data = (const char *)t.data + t.offset;
    if (t.bits == 32)
        *value = *(const float *)data;
    else if (t.bits == 64)
        *value = *(const double *)data;
    else
        return 0;
    return 1;
}

/* Is the gradient of the last step gone, or 0 in every bit? */
static int is_emptied(const wb_python *python, void *parameter)
{
    void *const gradient = python->attribute(parameter, python->gradient);
    if (!gradient) {
        python->forget_error();
        return 0;
    }
    int is_empty = gradient == python->none, in_order;
    dl_tensor t;
    if (!is_empty && wb_describe(python, gradient, &t)) {
        const int64_t size = wb_count_of(&t, &in_order) * t.bits / 8;
        const char *const data = (const char *)t.data + t.offset;
        is_empty = in_order && (size == 0 || (!data[0] && !memcmp(data, data + 1, (size_t)size - 1)));
    }
    python->release(gradient);
    return is_empty;
}

/* backward was called on this tensor. True: it is noted. */
WB_PUBLIC void *wb_usual_backward(void *self, void *loss)
{
    const wb_python *const python = wb_lent();
    wb_usual *const usual = usual_at(self);
    const int64_t began = wb_now_ns();
    if (usual->phase != READY || (usual->emptied && !is_emptied(python, usual->emptied)) || !is_bare(python, usual, loss) || !read_loss(python, loss, &usual->loss))
        return answer(0);
    usual->phase = PASSED;
    usual->samples = usual->scene ? usual->scene->samples : 0;
    if (usual->scene)
        usual->scene->samples = 0;
    usual->own_ns += wb_now_ns() - began;
    return answer(1);
}

/* ---- an optimizer is about to step ---- */

static int is_same_group(const wb_python *python, const wb_group *group, void *const *members)
{
    if (python->dict_item(group->group, python->parameters) != group->parameters
        || python->list_size(group->parameters) != group->count)
        return 0;
    for (int64_t i = 0; i < group->count; i++)
        if (python->list_item(group->parameters, i) != members[i])
            return 0;
    return 1;
}

/* Has the optimizer the groups and the parameters that it had? */
static int holds_the_same(const wb_python *python, const wb_usual *usual)
{
    void *const groups = borrowed_attribute(python, usual->optimizer, python->groups);
    if (groups != usual->groups || python->list_size(groups) != usual->group_count)
        return 0;
    void *const *members = usual->members;
    for (int64_t g = 0; g < usual->group_count; members += usual->group[g++].count)
        if (python->list_item(groups, g) != usual->group[g].group || !is_same_group(python, &usual->group[g], members))
            return 0;
    return 1;
}

/* This optimizer is about to step. True: that is noted, and the copies are what it starts from. */
WB_PUBLIC void *wb_usual_before(void *self, void *optimizer)
{
    const wb_python *const python = wb_lent();
    wb_usual *const usual = usual_at(self);
    const int64_t began = wb_now_ns();
    if (usual->phase != PASSED || optimizer != usual->optimizer || usual->clock + 1 >= usual->until || usual->done >= usual->room
        || !holds_the_same(python, usual))
        return answer(0);
    const int found = wb_look(usual->asked, 0);
    if (found) {
        usual->found = found; /* to ask again would find nothing new */
        return answer(0);
    }
    usual->clock++;
    usual->phase = INSIDE;
    usual->own_ns += wb_now_ns() - began;
    return answer(1);
}

/* ---- it has stepped ---- */

/* A setting that is a plain number, or is not there (NaN). 0: it is something else. */
static int read_setting(const wb_python *python, void *object, double *value)
{
    *value = NAN;
    if (!object || object == python->none)
        return 1;
    if (!is_of(python, object, python->float_type) && !is_of(python, object, python->int_type))
        return 0;
    *value = python->real(object);
    return 1;
}

static int read_settings(const wb_python *python, void *group, double *to)
{
    void *momentum = python->dict_item(group, python->momentum);
    if (!momentum || momentum == python->none) {
        void *const betas = python->dict_item(group, python->betas);
        momentum = NULL;
        if (betas && (!is_of(python, betas, python->tuple_type) || python->tuple_size(betas) < 1))
            return 0;
        if (betas)
            momentum = python->tuple_item(betas, 0);
    }
    return read_setting(python, python->dict_item(group, python->rate), &to[0]) && read_setting(python, momentum, &to[1])
        && read_setting(python, python->dict_item(group, python->decay), &to[2]);
}

static int is_scaled(const wb_python *python, void *optimizer)
{
    void *const own = borrowed_attribute(python, optimizer, python->own);
    void *const found_inf = own ? python->dict_item(own, python->found_inf) : NULL;
    return found_inf && found_inf != python->none;
}

/* Does the model train? Steps in evaluation mode are Python's to remark. */
static int trains(const wb_python *python, const wb_usual *usual)
{
    if (!usual->model)
        return 1;
    void *const model = python->call_nothing(usual->model);
    if (!model) {
        python->forget_error();
        return 0;
    }
    const int is_training = model != python->none && borrowed_attribute(python, model, python->training) == python->yes;
    python->release(model);
    return is_training;
}

static void next_outputs(wb_usual *usual)
{
    usual->own_ns += usual->scene->own_ns;
    usual->scene->own_ns = 0;
    usual->forward->stamp++;
    usual->backward->stamp++;
    usual->batch->stamp++;
    usual->scene->awaits_batch = usual->sentinel;
}

/* It has. True: its rows are written. None: they are, and Python has something to do now. Call with the recorder's lock held. */
WB_PUBLIC void *wb_usual_after(void *self, void *optimizer)
{
    const wb_python *const python = wb_lent();
    wb_usual *const usual = usual_at(self);
    const int64_t began = wb_now_ns(), n = usual->done;
    if (usual->phase != INSIDE || optimizer != usual->optimizer || (usual->scene && usual->scene->flagged)
        || is_scaled(python, optimizer) || !trains(python, usual))
        return answer(0);
    double *settings = usual->settings_of + n * usual->group_count * PER_GROUP;
    for (int64_t g = 0; g < usual->group_count; g++)
        if (!read_settings(python, usual->group[g].group, settings + g * PER_GROUP))
            return answer(0);
    const int found = wb_look(usual->asked, 1) & ~WB_CHANGED;
    if (found) {
        usual->found = found;
        return answer(0);
    }
    const int64_t first = usual->block->rows;
    if (wb_weigh(usual->asked->items, usual->asked->count, usual->clock, usual->attempt, usual->block, usual->values, usual->keep,
                 usual->shares))
        return answer(0);
    usual->jumped = usual->past && wb_has_jumped(usual->past, usual->block, first, usual->loss);
    const int pauses = usual->jumped || (usual->scene && usual->clock >= usual->pause_at);
    if (usual->scene && !pauses)
        next_outputs(usual);
    usual->phase = READY;
    usual->done = n + 1;
    usual->last_ns = wb_now_ns();
    usual->loss_of[n] = usual->loss;
    usual->samples_of[n] = usual->samples;
    usual->time_of[n] = usual->last_ns;
    usual->own_of[n] = usual->own_ns + usual->last_ns - began;
    usual->own_ns = 0;
    if (!pauses && usual->done < usual->room && usual->last_ns < usual->hand_over_ns)
        return answer(1);
    python->hold(python->none);
    return python->none;
}
