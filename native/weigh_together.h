/* The usual block of a step: three float tensors at once, for one instruction level. Included by weigh_level.c. */

#define EXTREMES(x) \
    int32_t x##_smax = INT32_MIN, x##_smin = INT32_MAX; \
    uint32_t x##_umax = 0, x##_umin = UINT32_MAX
#define MEET(x, value) \
    do { \
        float met = value; \
        uint32_t u; \
        memcpy(&u, &met, 4); \
        int32_t s = (int32_t)u; \
        x##_smax = s > x##_smax ? s : x##_smax; \
        x##_smin = s < x##_smin ? s : x##_smin; \
        x##_umax = u > x##_umax ? u : x##_umax; \
        x##_umin = u < x##_umin ? u : x##_umin; \
    } while (0)

/* Of a block of three tensors. */
typedef struct {
    lanes w, g, u;
    doubles_vector gp, gu, up;
} sums_together;

/* Elements of as many lanes as there are. */
static inline void add_together(sums_together *to, const element_f32 *before, const element_f32 *gradient, const float *update)
{
    const doubles_vector w = widened(before), g = widened(gradient), u = widened(update);
    add_lanes(&to->w, w);
    add_lanes(&to->g, g);
    add_lanes(&to->u, u);
    to->gp += g * w;
    to->gu += g * u;
    to->up += u * w;
}

/* The next block comes while this one is summed. */
static inline void ask_for_lines(const element_f32 *before, const element_f32 *after, const element_f32 *gradient)
{
    __builtin_prefetch(before + WB_BLOCK, 1);
    __builtin_prefetch(after + WB_BLOCK);
    __builtin_prefetch(gradient + WB_BLOCK);
}

static inline sums_f32 add_rest(lanes *lanes, const element_f32 *x, int from, int n)
{
    sums_f32 sums = {total(lanes->sum), total(lanes->sum_abs), total(lanes->sum_sq)};
    for (int i = from; i < n; i++) {
        const double value = x[i];
        sums.sum += value;
        sums.sum_abs += fabs(value);
        sums.sum_sq += value * value;
    }
    return sums;
}

#if defined(__AVX512F__)
/* Up to 16 elements. Fills `update`. */
static inline void subtract_and_meet(const element_f32 *before, const element_f32 *after, const element_f32 *gradient,
                                     __mmask16 which, float *update, range met[3])
{
    const __m512 x = _mm512_maskz_loadu_ps(which, before);
    const __m512 difference = _mm512_sub_ps(_mm512_maskz_loadu_ps(which, after), x);
    _mm512_mask_storeu_ps(update, which, difference);
    meet(&met[0], which, x);
    meet(&met[1], which, _mm512_maskz_loadu_ps(which, gradient));
    meet(&met[2], which, difference);
}

/* Fills `update`, finds the extremes of all three, and sums the elements before the one that is returned. */
static inline int look_and_sum(const element_f32 *before, const element_f32 *after, const element_f32 *gradient, int n,
                               float *update, extremes_f32 found[3], sums_together *sums)
{
    const __m512 most = _mm512_set1_ps(INFINITY), none = _mm512_set1_ps(-INFINITY);
    range met[3] = {{most, none, most}, {most, none, most}, {most, none, most}};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        ask_for_lines(before + i, after + i, gradient + i);
        subtract_and_meet(before + i, after + i, gradient + i, (__mmask16)-1, update + i, met);
        add_together(sums, before + i, gradient + i, update + i);
        add_together(sums, before + i + 8, gradient + i + 8, update + i + 8);
    }
    if (i < n) {
        const __mmask16 which = (__mmask16)((1u << (n - i)) - 1);
        subtract_and_meet(before + i, after + i, gradient + i, which, update + i, met);
        float rest[3][16]; /* zeros behind them add nothing */
        _mm512_storeu_ps(rest[0], _mm512_maskz_loadu_ps(which, before + i));
        _mm512_storeu_ps(rest[1], _mm512_maskz_loadu_ps(which, gradient + i));
        _mm512_storeu_ps(rest[2], _mm512_maskz_loadu_ps(which, update + i));
        add_together(sums, rest[0], rest[1], rest[2]);
        add_together(sums, rest[0] + 8, rest[1] + 8, rest[2] + 8);
    }
    for (int r = 0; r < 3; r++)
        found[r] = extremes_of_f32(&met[r]);
    return n;
}
#else
/* Fills `update`, and finds the extremes of all three. */
static inline void subtract_and_look(const element_f32 *restrict before, const element_f32 *restrict after,
                                     const element_f32 *restrict gradient, int n, float *restrict update,
                                     extremes_f32 found[3])
{
    EXTREMES(w);
    EXTREMES(g);
    EXTREMES(u);
#pragma omp simd reduction(max : w_smax, w_umax, g_smax, g_umax, u_smax, u_umax) \
    reduction(min : w_smin, w_umin, g_smin, g_umin, u_smin, u_umin)
    for (int i = 0; i < n; i++) {
        const float difference = after[i] - before[i];
        update[i] = difference;
        MEET(w, before[i]);
        MEET(g, gradient[i]);
        MEET(u, difference);
    }
    found[0] = (extremes_f32){w_smax, w_smin, w_umax, w_umin};
    found[1] = (extremes_f32){g_smax, g_smin, g_umax, g_umin};
    found[2] = (extremes_f32){u_smax, u_smin, u_umax, u_umin};
}

/* As above; in two loops, because there are fewer registers. */
static inline int look_and_sum(const element_f32 *before, const element_f32 *after, const element_f32 *gradient, int n,
                               float *update, extremes_f32 found[3], sums_together *sums)
{
    subtract_and_look(before, after, gradient, n, update, found);
    int i = 0;
    for (; i + WB_LANES <= n; i += WB_LANES) {
        if (i % (WB_LINE / 4) == 0)
            ask_for_lines(before + i, after + i, gradient + i);
        add_together(sums, before + i, gradient + i, update + i);
    }
    return i;
}
#endif

/* The usual case again, a third faster: float parameter and gradient, nothing but finite numbers. All three rows and the
 * cross terms are summed in one loop, so each element is converted to double once. Fills `update`; returns 0, with
 * nothing added, where NaN or infinity is in the block: then, and only then, a sum of squares is not finite. */
static int weigh_together(const void *before, const void *after, const void *gradient, int n, int line, float *update,
                          wb_row rows[3], wb_cross *cross)
{
    const element_f32 *const bw = before, *const bg = gradient;
    extremes_f32 found[3];
    sums_together sums = {0};
    const int whole = look_and_sum(bw, after, bg, n, update, found, &sums);
    const sums_f32 w_sums = add_rest(&sums.w, bw, whole, n), g_sums = add_rest(&sums.g, bg, whole, n),
                   u_sums = add_rest(&sums.u, update, whole, n);
    if (!isfinite(w_sums.sum_sq + g_sums.sum_sq + u_sums.sum_sq))
        return 0;
    for (int i = whole; i < n; i++) {
        const double w = bw[i], g = bg[i], u = update[i];
        cross->gradient_parameter += g * w;
        cross->gradient_update += g * u;
        cross->update_parameter += u * w;
    }
    add_block_f32(before, n, NORMAL_F32, line, found[0], w_sums, &rows[0]);
    add_block_f32(gradient, n, NORMAL_F32, line, found[1], g_sums, &rows[1]);
    const int64_t still = rows[2].zero;
    add_block_f32((const void *)update, n, NORMAL_F32, line, found[2], u_sums, &rows[2]);
    if (rows[2].zero != still)
        cross->lost += count_lost(gradient, 0, update, n, WB_F32);
    cross->gradient_parameter += total(sums.gp);
    cross->gradient_update += total(sums.gu);
    cross->update_parameter += total(sums.up);
    return 1;
}
