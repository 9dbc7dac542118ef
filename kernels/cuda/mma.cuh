// Tensor cores: D += A B by one warp, a 16 x 8 tile of D, with operands of a lower precision.
//
// Lane 4 g + t (g = 0 .. 7, t = 0 .. 3) holds, in words of 32 bits, as the PTX ISA lays it out for
// mma.sync.m16n8k8 (tf32, a number a word) and m16n8k16 (bf16, two neighbours along k a word):
//
//     A, 16 rows i:      a[0] (g, t)    a[1] (g + 8, t)    a[2] (g, t + 4)    a[3] (g + 8, t + 4)
//     B, 8 columns j:    b[0] (t, g)    b[1] (t + 4, g)         (i, word of k) and (word of k, j)
//     D in float:        d[0] (g, 2t)   d[1] (g, 2t + 1)   d[2] (g + 8, 2t)   d[3] (g + 8, 2t + 1)
//
// The products are exact, their sums in float. PTX does not say in which order the words of k are
// added, so that they may stand in any order, if it is the same for A and B.
//
// Tensor cores ignore the low 13 bits of a tf32 operand, which would cut them off: ``rounded``
// rounds instead, to nearest. It keeps NaN and infinity, so that divergence shows in the cost.
//
// sm_80 and newer; below, this text compiles as long as nobody calls it.

// The instructions, a line of PTX each. For the CPU they are functions of the same names in
// tests/cuda_on_cpu/cuda.h; tests/test_cuda_ptx.py says what each of them rests on.
#ifndef GPUBP_CUDA_ON_CPU
__device__ inline unsigned cvt_rna_tf32(float x)
{
    unsigned word;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
    return word;
}
__device__ inline unsigned short cvt_rn_bf16(float x)
{
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ inline void mma_m16n8k8_tf32(
    float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_m16n8k16_bf16(
    float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

struct Tf32 {  // 8 bits of exponent, 10 of mantissa: a rounding is off by 2^-11 at most
    static constexpr int PER_WORD = 1;
    typedef unsigned Stored;

    static __device__ inline Stored rounded(float x)
    {
        return cvt_rna_tf32(x);
    }
    static __device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
    {
        mma_m16n8k8_tf32(d, a, b);
    }
};

struct Bf16 {  // 8 bits of exponent, 7 of mantissa: a rounding is off by 2^-8 at most
    static constexpr int PER_WORD = 2;
    typedef unsigned short Stored;

    static __device__ inline Stored rounded(float x)
    {
        return cvt_rn_bf16(x);
    }
    static __device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
    {
        mma_m16n8k16_bf16(d, a, b);
    }
};
