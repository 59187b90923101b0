/* The loops over one block of elements, written once for float and double. Included by weigh_level.c with
 *   T element   B signed integer of its size   U unsigned one   NAME(x) name with the type's suffix
 *   INFINITE the bits of +infinity   MANTISSA bits in the mantissa   BIAS of the exponent
 *
 * Every test for NaN, infinity, zero and subnormal looks at the bits as an integer, so neither a floating-point option
 * nor a flush-to-zero mode can change it. Sums run in double lanes throughout: the square of any float is in range
 * there, nothing cancels until |mean|/std passes 1e5, and a pass over memory is hardly slower
 * (docs/decisions/0006-float64-lanes.md). `omp simd` permits the compiler to sum in lanes; no OpenMP is linked. */

#define MAGNITUDE ((B)(~(U)0 >> 1))
#define SIGN ((U)1 << (sizeof(B) * 8 - 1))

typedef U NAME(bits) __attribute__((aligned(1), may_alias)); /* tensors may lie at any address */

/* Four extremes of the bits say what a block holds, for less than the price of counting. Read as signed integers,
 * positive elements rise with their value and every negative one lies below them; read as unsigned, negative elements
 * lie above and rise with their magnitude. */
typedef struct {
    B signed_max, signed_min;
    U unsigned_max, unsigned_min;
} NAME(extremes);

/* The sums of a block, taken without looking whether there is NaN or infinity in it: the extremes, found in the same
 * loop, say so afterwards, and then (rarely) these sums are thrown away. */
typedef struct {
    double sum, sum_abs, sum_sq;
} NAME(sums);

static inline NAME(extremes) NAME(look)(const NAME(bits) *x, int n, NAME(sums) *sums)
{
    const NAME(element) *values = (const void *)x;
    B signed_max = (B)SIGN, signed_min = MAGNITUDE;
    U unsigned_max = 0, unsigned_min = ~(U)0;
    double sum = 0, sum_abs = 0, sum_sq = 0;
#pragma omp simd reduction(max : signed_max, unsigned_max) reduction(min : signed_min, unsigned_min) \
    reduction(+ : sum, sum_abs, sum_sq)
    for (int i = 0; i < n; i++) {
        U u = x[i];
        B s = (B)u;
        double v = values[i];
        signed_max = s > signed_max ? s : signed_max;
        signed_min = s < signed_min ? s : signed_min;
        unsigned_max = u > unsigned_max ? u : unsigned_max;
        unsigned_min = u < unsigned_min ? u : unsigned_min;
        sum += v;
        sum_abs += fabs(v);
        sum_sq += v * v;
    }
    *sums = (NAME(sums)){sum, sum_abs, sum_sq};
    return (NAME(extremes)){signed_max, signed_min, unsigned_max, unsigned_min};
}

#if defined(__AVX512F__)
/* The same as extremes of the bits, of finite numbers. Which sign the smallest magnitude has does not matter to anybody. */
static inline NAME(extremes) NAME(extremes_of)(const range *r)
{
    const int32_t low = bits_of(_mm512_reduce_min_ps(r->low)), high = bits_of(_mm512_reduce_max_ps(r->high)),
                  least = bits_of(_mm512_reduce_min_ps(r->least));
    return (NAME(extremes)){high < 0 ? low : high, low < 0 ? INT32_MIN | least : least, (uint32_t)(low < 0 ? low : high),
                            (uint32_t)(high < 0 ? INT32_MIN | least : least)};
}
#endif

/* The usual case again, quicker: floats, all of them finite. Returns 0, with nothing found, elsewhere. */
static inline int NAME(look_usual)(const NAME(bits) *x, int n, NAME(sums) *sums, NAME(extremes) *found)
{
#if defined(__AVX512F__)
    if (sizeof(U) > 4)
        return 0;
    const element_f32 *floats = (const void *)x;
    const __m512 most = _mm512_set1_ps(INFINITY);
    range met = {most, _mm512_set1_ps(-INFINITY), most};
    lanes front = {0}, back = {0};
    float rest[16];
    for (int left = n; left > 0; left -= 16, floats += 16) {
        const __mmask16 which = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)-1;
        const __m512 sixteen = _mm512_maskz_loadu_ps(which, floats);
        if (left < 16) { /* zeros behind them add nothing */
            _mm512_storeu_ps(rest, sixteen);
            floats = rest;
        }
        meet(&met, which, sixteen);
        add_lanes(&front, widened(floats));
        add_lanes(&back, widened(floats + 8));
    }
    *sums = (NAME(sums)){total(front.sum + back.sum), total(front.sum_abs + back.sum_abs), total(front.sum_sq + back.sum_sq)};
    *found = NAME(extremes_of)(&met);
    return isfinite(sums->sum_sq); /* no square of a float is too large for a double */
#else
    (void)x, (void)n, (void)sums, (void)found;
    return 0;
#endif
}

static inline int NAME(all_finite)(NAME(extremes) e)
{
    return e.signed_max < INFINITE && (B)(e.unsigned_max & (U)MAGNITUDE) < INFINITE;
}

/* Does any magnitude lie below this one (of positive elements, of negative ones)? */
static inline int NAME(any_below)(NAME(extremes) e, B magnitude)
{
    return e.unsigned_min < (U)magnitude || (e.signed_min < 0 && (e.signed_min & MAGNITUDE) < magnitude);
}

static inline double NAME(value)(U bits)
{
    T value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static inline void NAME(widen_range)(wb_row *row, double low, double high)
{
    row->min = low < row->min ? low : row->min;
    row->max = high > row->max ? high : row->max;
}

/* Zeros and subnormals of a block; `normal` holds the bits of the smallest normal number of the tensor's own dtype. */
static inline void NAME(count_small)(const NAME(bits) *x, int n, B normal, wb_row *row)
{
    B zero = 0, small = 0;
#pragma omp simd reduction(+ : zero, small)
    for (int i = 0; i < n; i++) {
        B magnitude = (B)x[i] & MAGNITUDE;
        zero += magnitude == 0;
        small += magnitude < normal;
    }
    row->zero += zero;
    row->subnormal += small - zero;
}

/* A block with NaN or infinity in it: counts them and leaves them out of everything else. `clean` gets the block with
 * zeros in their place, for the sums and the cross terms. */
static void NAME(leave_out_nonfinite)(const NAME(bits) *x, int n, NAME(bits) *clean, wb_row *row)
{
    B nan = 0, positive = 0, negative = 0;
    B key_max = (B)SIGN, key_min = MAGNITUDE; /* keys: integers in the order of the values */
#pragma omp simd reduction(+ : nan, positive, negative) reduction(max : key_max) reduction(min : key_min)
    for (int i = 0; i < n; i++) {
        B s = (B)x[i], magnitude = s & MAGNITUDE;
        B key = s < 0 ? ~magnitude : magnitude;
        int finite = magnitude < INFINITE;
        B low = finite ? key : MAGNITUDE, high = finite ? key : (B)SIGN;
        nan += magnitude > INFINITE;
        positive += s == INFINITE;
        negative += (U)s == (SIGN | (U)INFINITE);
        key_max = high > key_max ? high : key_max;
        key_min = low < key_min ? low : key_min;
        clean[i] = finite ? (U)s : 0;
    }
    row->nan += nan;
    row->pos_inf += positive;
    row->neg_inf += negative;
    if (nan + positive + negative < n)
        NAME(widen_range)(row, NAME(value)(key_min < 0 ? SIGN | (U)~key_min : (U)key_min),
                          NAME(value)(key_max < 0 ? SIGN | (U)~key_max : (U)key_max));
}

/* The same with a power of two divided into 2 or 4: linear inside it, so the bin lies in the mantissa's first bits. */
static void NAME(count_fine_bins)(const NAME(bits) *x, int n, wb_row *row)
{
    const int fine = row->histogram, above = (WB_OCTAVES << fine) + 1;
    const B low = ((B)(BIAS - 40) << fine) - 1;
    uint32_t *const counts = row->bins[0];
    uint16_t bin[WB_BLOCK];
#pragma omp simd
    for (int i = 0; i < n; i++) {
        B s = (B)x[i], magnitude = s & MAGNITUDE;
        B place = (magnitude >> (MANTISSA - fine)) - low, sign = s < 0 ? -1 : 0;
        place = place < 0 ? 0 : place > above ? above : place;
        B b = WB_SIDE(fine) + (place ^ sign);
        bin[i] = (uint16_t)((U)(magnitude - 1) < (U)(INFINITE - 1) ? b : WB_NO_FINE_BIN);
    }
    for (int i = 0; i < n; i++)
        counts[bin[i]]++;
}

static inline int NAME(octave)(U magnitude)
{
    const B exponent = (B)(magnitude >> MANTISSA) - (BIAS - 41);
    return exponent < 0 ? 0 : exponent > WB_OCTAVES + 1 ? WB_OCTAVES + 1 : (int)exponent;
}

static inline U NAME(largest)(NAME(extremes) e)
{
    const U most_positive = e.signed_max < 0 ? 0 : (U)e.signed_max;
    const U most_negative = (B)e.unsigned_max < 0 ? e.unsigned_max & (U)MAGNITUDE : 0;
    return most_positive > most_negative ? most_positive : most_negative;
}

static inline U NAME(smallest)(NAME(extremes) e)
{
    const U least_positive = (B)e.unsigned_min < 0 ? (U)MAGNITUDE : e.unsigned_min;
    const U least_negative = e.signed_min < 0 ? (U)e.signed_min & (U)MAGNITUDE : (U)MAGNITUDE;
    return least_positive < least_negative ? least_positive : least_negative;
}

/* The powers of two that elements of a block may have, from its extremes; where it has zeros, the elements are looked at
 * for their smallest. */
static inline void NAME(octaves)(const NAME(bits) *x, int n, NAME(extremes) e, int *low, int *high)
{
    U least = NAME(smallest)(e);
    if (least == 0) {
        least = ~(U)0;
#pragma omp simd reduction(min : least)
        for (int i = 0; i < n; i++) {
            const U below = (x[i] & (U)MAGNITUDE) - 1; /* zero becomes the largest */
            least = below < least ? below : least;
        }
        least++;
    }
    *low = NAME(octave)(least);
    *high = NAME(octave)(NAME(largest)(e));
}

/* The histogram's bin of each element, in lanes; then the counting. */
static inline void NAME(count_bins)(const NAME(bits) *x, int n, int is_whole, NAME(extremes) e, wb_row *row)
{
    if (row->histogram > 0) {
        NAME(count_fine_bins)(x, n, row);
        return;
    }
    int low = 0, high = WB_OCTAVES + 1;
    if (is_whole && NAME(all_finite)(e))
        NAME(octaves)(x, n, e, &low, &high);
    row->octave = high > row->octave ? high : row->octave;
    uint8_t bin[WB_BLOCK] __attribute__((aligned(64)));
#pragma omp simd
    for (int i = 0; i < n; i++) {
        B s = (B)x[i], magnitude = s & MAGNITUDE;
        B exponent = magnitude >> MANTISSA, sign = s < 0 ? -1 : 0;
        exponent = exponent < BIAS - 41 ? BIAS - 41 : exponent; /* below the range */
        exponent = exponent > BIAS + 24 ? BIAS + 24 : exponent; /* above it */
        exponent -= BIAS - 41;
        B b = WB_SIDE(0) + (exponent ^ sign); /* 66 + e, or 65 - e for a negative element */
        bin[i] = (uint8_t)((U)(magnitude - 1) < (U)(INFINITE - 1) ? b : WB_NO_BIN);
    }
    add_to_bins(bin, n, is_whole, low, high, row);
}

/* The usual case again, quicker: finite floats, all of them in the histogram's range. Returns 0, with nothing done, elsewhere. */
static inline int NAME(count_usual)(const NAME(bits) *x, int n, int line, NAME(extremes) e, wb_row *row)
{
#if defined(__AVX512BW__)
    const element_f32 *const floats = (const void *)x;
    const int count = line ? n / WB_STRIDE : n;
    if (sizeof(U) > 4 || row->histogram || !NAME(all_finite)(e) || (line && n < WB_BLOCK))
        return 0;
    U least = NAME(smallest)(e), largest = NAME(largest)(e);
    if (least == 0 && largest)
        least = (U)least_looked_at(floats, n, line, count);
    if (largest) {
        const int low = NAME(octave)(least), high = NAME(octave)(largest);
        if (low < 1 || high > WB_OCTAVES || high - low > WIDE_RANGE)
            return 0;
        row->octave = high > row->octave ? high : row->octave;
        compare_floats(floats, n, line, count, low, high, row->bins[0]);
    }
    row->looked_at += count;
    return 1;
#else
    (void)x, (void)n, (void)line, (void)e, (void)row;
    return 0;
#endif
}

static inline void NAME(count_histogram)(const NAME(bits) *x, int n, int line, NAME(extremes) e, wb_row *row)
{
    if (row->histogram < 0 || NAME(count_usual)(x, n, line, e, row))
        return;
    if (!line) { /* the whole tensor */
        row->looked_at += n;
        NAME(count_bins)(x, n, 1, e, row);
        return;
    }
    U seen[WB_BLOCK / WB_STRIDE];
    int k = 0, i = 0;
    for (; i + line <= n; i += line * WB_STRIDE, k += line)
        for (int part = 0; part < line; part += (int)(WB_LINE / sizeof(U))) /* half precision is widened: two parts */
            memcpy(seen + k + part, x + i + part, WB_LINE);
    for (; i < n; i++, k++) /* the tensor ends inside a line that is looked at */
        seen[k] = x[i];
    row->looked_at += k;
    NAME(count_bins)((const NAME(bits) *)seen, k, 0, e, row);
}

/* Adds a block without NaN or infinity to its row. `line`: elements in a 64-byte line of the tensor as it is stored,
 * 0 = all of them go into the histogram. */
static inline void NAME(add_block)(const NAME(bits) *x, int n, B normal, int line, NAME(extremes) e, NAME(sums) sums,
                                   wb_row *row)
{
    if (NAME(any_below)(e, normal))
        NAME(count_small)(x, n, normal, row);
    NAME(count_histogram)(x, n, line, e, row);
    NAME(widen_range)(row, NAME(value)((B)e.unsigned_max < 0 ? e.unsigned_max : e.unsigned_min),
                      NAME(value)(e.signed_max < 0 ? (U)e.signed_min : (U)e.signed_max));
    row->sum += sums.sum;
    row->sum_abs += sums.sum_abs;
    row->sum_sq += sums.sum_sq;
}

/* Adds any block to its row. Returns the block to use in products: itself, or `clean` where NaN and infinity had to be
 * left out. */
static const NAME(bits) *NAME(weigh)(const NAME(bits) *x, int n, B normal, int line, NAME(bits) *clean, wb_row *row)
{
    NAME(sums) sums;
    NAME(extremes) e;
    if (NAME(look_usual)(x, n, &sums, &e)) {
        NAME(add_block)(x, n, normal, line, e, sums, row);
        return x;
    }
    e = NAME(look)(x, n, &sums);
    if (NAME(all_finite)(e)) {
        NAME(add_block)(x, n, normal, line, e, sums, row);
        return x;
    }
    if (NAME(any_below)(e, normal))
        NAME(count_small)(x, n, normal, row);
    NAME(count_histogram)(x, n, line, e, row);
    NAME(leave_out_nonfinite)(x, n, clean, row);
    NAME(look)(clean, n, &sums);
    row->sum += sums.sum;
    row->sum_abs += sums.sum_abs;
    row->sum_sq += sums.sum_sq;
    return clean;
}

#undef MAGNITUDE
#undef SIGN
