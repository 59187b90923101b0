/* Counting the bins of a histogram of powers of two, for one instruction level. Included by weigh_level.c. */

#define WIDE_RANGE 24 /* powers of two: where they are more, to count one by one is quicker */
#define MANY 128      /* elements: from here on four tables are quicker than one, which is quicker to clear */

#if defined(__AVX512BW__)
#include "weigh_planes.h"

/* Compares 64 elements at once with every bin that may occur, on both sides, and counts the bits. What fills the last 64 has
 * a bin that is none of these. Where there are enough of them, planes of bits are quicker. */
static inline void compare_bins(uint8_t *bin, int n, int low, int high, uint32_t *counts)
{
    if (n >= PLANE && has_planes()) {
        const int filled = (n + 63) & ~63;
        memset(bin + filled, WB_NO_BIN, (size_t)(-filled & (PLANE - 1)));
        count_planes(bin, (n + PLANE - 1) & -PLANE, low, high, counts);
        return;
    }
    for (int e = low; e <= high; e++) {
        const __m512i above = _mm512_set1_epi8((char)(WB_SIDE(0) + e)), below = _mm512_set1_epi8((char)(WB_SIDE(0) - 1 - e));
        int n_above = 0, n_below = 0;
        for (int i = 0; i < n; i += 64) {
            const __m512i bins = _mm512_load_si512(bin + i);
            n_above += __builtin_popcountll(_mm512_cmpeq_epi8_mask(bins, above));
            n_below += __builtin_popcountll(_mm512_cmpeq_epi8_mask(bins, below));
        }
        counts[WB_SIDE(0) + e] += (uint32_t)n_above;
        counts[WB_SIDE(0) - 1 - e] += (uint32_t)n_below;
    }
}

/* Words of which each holds a float's sign (all upper bits) and exponent (the lower eight): their bins. */
static inline __m512i bins_of_words(__m512i words)
{
    const __m512i exponents = _mm512_and_si512(words, _mm512_set1_epi16(255));
    const __m512i octaves = _mm512_sub_epi16(exponents, _mm512_set1_epi16(127 - 41)), signs = _mm512_srai_epi16(words, 15);
    return _mm512_add_epi16(_mm512_xor_si512(octaves, signs), _mm512_set1_epi16(WB_SIDE(0)));
}

/* The bins of 64 floats, in some order. Right inside the histogram's range; zeros get bins that are outside of it. */
static inline __m512i bins_of_floats(const __m512i x[4])
{
    const __m512i front = _mm512_packs_epi32(_mm512_srai_epi32(x[0], 23), _mm512_srai_epi32(x[1], 23));
    const __m512i back = _mm512_packs_epi32(_mm512_srai_epi32(x[2], 23), _mm512_srai_epi32(x[3], 23));
    return _mm512_packus_epi16(bins_of_words(front), bins_of_words(back));
}

/* The k-th 16 floats that are looked at, beyond the end zeros. `line` as in count_histogram. */
static inline __m512i looked_at(const element_f32 *x, int n, int line, int k)
{
    const int at = !line ? k * 16 : line == 16 ? k * 16 * WB_STRIDE : (k >> 1) * 32 * WB_STRIDE + (k & 1) * 16, left = n - at;
    const __mmask16 which = left >= 16 ? (__mmask16)-1 : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
    return _mm512_maskz_loadu_epi32(which, x + at);
}

/* The smallest power of two of the floats that are looked at, zeros left out: bits. */
static inline uint32_t least_looked_at(const element_f32 *x, int n, int line, int count)
{
    __m512i least = _mm512_set1_epi32(-1);
    for (int k = 0; k * 16 < count; k++) { /* zeros become the largest */
        const __m512i magnitude = _mm512_and_si512(looked_at(x, n, line, k), _mm512_set1_epi32(0x7fffffff));
        least = _mm512_min_epu32(least, _mm512_sub_epi32(magnitude, _mm512_set1_epi32(1)));
    }
    return _mm512_reduce_min_epu32(least) + 1;
}

/* Finds the bins of finite floats with one shift each and counts them by comparing. `count`: of elements looked at. */
static inline void compare_floats(const element_f32 *x, int n, int line, int count, int low, int high, uint32_t *counts)
{
    uint8_t bin[WB_BLOCK] __attribute__((aligned(64)));
    for (int k = 0; k * 16 < count; k += 4) {
        const __m512i four[4] = {looked_at(x, n, line, k), looked_at(x, n, line, k + 1), looked_at(x, n, line, k + 2),
                                 looked_at(x, n, line, k + 3)};
        _mm512_store_si512(bin + k * 16, bins_of_floats(four));
    }
    compare_bins(bin, count, low, high, counts);
}
#endif

static inline void add_one_by_one(const uint8_t *bin, int n, wb_row *row)
{
    uint32_t(*table)[WB_TABLE] = row->bins;
    int i = 0;
    if (n >= MANY && row->tables == 1) {
        memset(table[1], 0, (WB_TABLES - 1) * sizeof table[0]);
        row->tables = WB_TABLES;
    }
    if (row->tables == WB_TABLES)
        for (; i + 8 <= n; i += 8) {
            uint64_t eight; /* one load instead of eight; which byte is which does not matter */
            memcpy(&eight, bin + i, 8);
            table[0][eight & 255]++;
            table[1][eight >> 8 & 255]++;
            table[2][eight >> 16 & 255]++;
            table[3][eight >> 24 & 255]++;
            table[0][eight >> 32 & 255]++;
            table[1][eight >> 40 & 255]++;
            table[2][eight >> 48 & 255]++;
            table[3][eight >> 56]++;
        }
    for (; i < n; i++)
        table[0][bin[i]]++;
}

/* `low` to `high`: the powers of two that may occur, counted from the lowest bin of a side. `bin` has room for whole
 * registers. Of few elements comparing takes longer. */
static inline void add_to_bins(uint8_t *bin, int n, int is_whole, int low, int high, wb_row *row)
{
#if defined(__AVX512BW__)
    if (is_whole && high - low <= WIDE_RANGE) {
        memset(bin + n, WB_NO_BIN, (size_t)(-n & 63));
        compare_bins(bin, n, low, high, row->bins[0]);
        return;
    }
#endif
    (void)is_whole, (void)low, (void)high;
    add_one_by_one(bin, n, row);
}
