/* The process may flush subnormals to zero (torch.set_flush_denormal) or trap; a scale must not depend on it. */
#ifndef WEIGHBRIDGE_PLAIN_ARITHMETIC_H
#define WEIGHBRIDGE_PLAIN_ARITHMETIC_H

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
static inline unsigned enter_plain_arithmetic(void)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(0x1f80); /* all exceptions masked, round to nearest, subnormals kept */
    return before;
}
static inline void leave_plain_arithmetic(unsigned before)
{
    _mm_setcsr(before); /* the flags raised meanwhile go too */
}
#elif defined(__aarch64__)
static inline uint64_t enter_plain_arithmetic(void)
{
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return before;
}
static inline void leave_plain_arithmetic(uint64_t before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}
#else
static inline unsigned enter_plain_arithmetic(void) { return 0; }
static inline void leave_plain_arithmetic(unsigned before) { (void)before; }
#endif

#endif
