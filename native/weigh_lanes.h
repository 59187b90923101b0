/* Registers of one instruction level: sums of floats in double lanes; extremes in float lanes. Included by weigh_level.c. */

/* Doubles as wide as this level's registers, in the way that gcc and clang share. */
#if defined(__AVX512F__)
#define WB_LANES 8
#elif defined(__AVX2__)
#define WB_LANES 4
#else
#define WB_LANES 2
#endif
typedef double doubles_vector __attribute__((vector_size(8 * WB_LANES)));
typedef uint64_t words_vector __attribute__((vector_size(8 * WB_LANES)));
typedef float floats_vector __attribute__((vector_size(4 * WB_LANES)));

/* One instruction that converts while it loads. gcc 12 makes two halves and puts them together out of a plain conversion. */
static inline doubles_vector widened(const element_f32 *x)
{
#if defined(__AVX512F__)
    return (doubles_vector)_mm512_cvtps_pd(_mm256_loadu_ps((const float *)x));
#elif defined(__AVX2__)
    return (doubles_vector)_mm256_cvtps_pd(_mm_loadu_ps((const float *)x));
#else
    floats_vector narrow;
    memcpy(&narrow, x, sizeof narrow);
    return __builtin_convertvector(narrow, doubles_vector);
#endif
}

static inline double total(doubles_vector x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_pd((__m512d)x);
#else
    double sum = x[0];
    for (int i = 1; i < WB_LANES; i++)
        sum += x[i];
    return sum;
#endif
}

typedef struct {
    doubles_vector sum, sum_abs, sum_sq;
} lanes;

static inline void add_lanes(lanes *to, doubles_vector x)
{
    to->sum += x;
    to->sum_abs += (doubles_vector)((words_vector)x & ~(uint64_t)0 >> 1);
    to->sum_sq += x * x;
}

#if defined(__AVX512F__)
/* Smallest and largest value, smallest magnitude: floating-point extremes run in two units here, those of integers in one. */
typedef struct {
    __m512 low, high, least;
} range;

static inline void meet(range *r, __mmask16 which, __m512 x)
{
    r->low = _mm512_mask_min_ps(r->low, which, r->low, x);
    r->high = _mm512_mask_max_ps(r->high, which, r->high, x);
    r->least = _mm512_mask_range_ps(r->least, which, r->least, x, 0b1010);
}

static inline int32_t bits_of(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
#endif
