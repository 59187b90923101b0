/* Counting bins by planes of bits, where the processor counts bits in registers (from Ice Lake and Zen 4 on). Included by
 * weigh_bins.h, for AVX-512. One register holds one bit of 512 elements' bins; those that have a bin are an AND of eight. */
#define WITH_PLANES __attribute__((target("avx512vbmi,gfni,avx512vpopcntdq")))
#define PLANE 512 /* elements */

static inline int has_planes(void)
{
    return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni") && __builtin_cpu_supports("avx512vpopcntdq");
}

/* The lanes of 128 bits of four registers, transposed. */
WITH_PLANES static inline void transpose_lanes(const __m512i x[4], __m512i to[4])
{
    const __m512i front = _mm512_shuffle_i64x2(x[0], x[1], 0x44), front_after = _mm512_shuffle_i64x2(x[2], x[3], 0x44),
                  back = _mm512_shuffle_i64x2(x[0], x[1], 0xee), back_after = _mm512_shuffle_i64x2(x[2], x[3], 0xee);
    to[0] = _mm512_shuffle_i64x2(front, front_after, 0x88);
    to[1] = _mm512_shuffle_i64x2(front, front_after, 0xdd);
    to[2] = _mm512_shuffle_i64x2(back, back_after, 0x88);
    to[3] = _mm512_shuffle_i64x2(back, back_after, 0xdd);
}

/* Bit k of 512 bins into plane k. The elements change places, in all planes alike. */
WITH_PLANES static inline void planes_of(const uint8_t *bin, __m512i plane[8])
{
    uint8_t from[64]; /* the k-th bytes of eight words, beside each other */
    for (int i = 0; i < 64; i++)
        from[i] = (uint8_t)((i & 7) * 8 + (i >> 3));
    const __m512i together = _mm512_loadu_si512(from), ones = _mm512_set1_epi64(0x8040201008040201);
    __m512i words[8], even[4], odd[4], to[4];
    for (int i = 0; i < 8; i++) { /* bits and bytes of each eight elements transposed: byte k holds bit k of all */
        const __m512i bits = _mm512_gf2p8affine_epi64_epi8(ones, _mm512_load_si512(bin + 64 * i), 0);
        words[i] = _mm512_permutexvar_epi8(together, bits);
    }
    for (int i = 0; i < 4; i++) {
        even[i] = _mm512_unpacklo_epi64(words[2 * i], words[2 * i + 1]);
        odd[i] = _mm512_unpackhi_epi64(words[2 * i], words[2 * i + 1]);
    }
    transpose_lanes(even, to);
    for (int i = 0; i < 4; i++)
        plane[2 * i] = to[i];
    transpose_lanes(odd, to);
    for (int i = 0; i < 4; i++)
        plane[2 * i + 1] = to[i];
}

/* Which of 512 elements have these bits, the lowest first, in these planes? Without a branch: bits of a bin cannot be foretold. */
WITH_PLANES static inline __m512i which_have(const __m512i *plane, int number, int bits)
{
    __m512i which = _mm512_set1_epi64(-1);
    for (int k = 0; k < number; k++) /* a plane, or its complement */
        which = _mm512_ternarylogic_epi64(which, plane[k], _mm512_set1_epi64(-(bits >> k & 1)), 0x90);
    return which;
}

/* The sums of eight registers' words. */
WITH_PLANES static inline __m512i totals(const __m512i x[8])
{
    __m512i pairs[4], to[4];
    for (int i = 0; i < 4; i++)
        pairs[i] = _mm512_add_epi64(_mm512_unpacklo_epi64(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_epi64(x[2 * i], x[2 * i + 1]));
    transpose_lanes(pairs, to);
    return _mm512_add_epi64(_mm512_add_epi64(to[0], to[1]), _mm512_add_epi64(to[2], to[3]));
}

/* Counts, of `n` bins, a multiple of PLANE and at most WB_BLOCK, those of the powers of two from `least` to `most` on both
 * sides: eight neighbours at once. */
WITH_PLANES static void count_planes(const uint8_t *bin, int n, int least, int most, uint32_t *counts)
{
    __m512i plane[WB_BLOCK / PLANE][8], low[WB_BLOCK / PLANE][8]; /* low: elements by the last three bits */
    for (int p = 0; p * PLANE < n; p++) {
        planes_of(bin + p * PLANE, plane[p]);
        for (int i = 0; i < 8; i++)
            low[p][i] = which_have(plane[p], 3, i);
    }
    for (int side = 0; side < 2; side++) {
        const int first = side ? WB_SIDE(0) - 1 - most : WB_SIDE(0) + least, last = first + most - least;
        for (int b = first & ~7; b <= last; b += 8) {
            __m512i found[8] = {0};
            for (int p = 0; p * PLANE < n; p++) {
                const __m512i high = which_have(plane[p] + 3, 5, b >> 3);
                for (int i = 0; i < 8; i++)
                    found[i] = _mm512_add_epi64(found[i], _mm512_popcnt_epi64(_mm512_and_si512(high, low[p][i])));
            }
            const int before = first > b ? first - b : 0, after = last < b + 7 ? b + 7 - last : 0;
            const __mmask8 wanted = (__mmask8)(255 << before & 255 >> after);
            const __m256i sum = _mm512_cvtepi64_epi32(totals(found));
            _mm256_mask_storeu_epi32(counts + b, wanted, _mm256_add_epi32(sum, _mm256_maskz_loadu_epi32(wanted, counts + b)));
        }
    }
}
