// The product of tile.cuh on tensor cores: the same interface, operands rounded to tf32 or bf16.
//
//     C(i, j) = sum_k rounded(A(i, k)) rounded(B(j, k)),    sums in float
//
// Plain twin: both operands rounded, element by element, then the product. Each operand's rounding
// adds at most u = 2^-11 (tf32) or 2^-8 (bf16) of sum_k |A(i, k) B(j, k)| to the error of C(i, j),
// the sums depth 2^-23 of it.
//
// 1. Shared memory, two stages, registers on the way, as in tile.cuh. An element is rounded once,
//    on its way into a stage. (cp.async would spare the registers, but it copies bits as they are:
//    x/255 and the rounding would be left to each of the warps that read an element.)
// 2. A stage is of words: one k in tf32, two in bf16. A step is 8 words of k: a warp multiplies WM
//    x 8 words of A by WN x 8 of B in WM / 16 x WN / 8 instructions, reading WM + WN rows of 32
//    bytes for WM WN 8 products. Lane 4 g + t takes words 2 t and 2 t + 1 of rows g, which the
//    instruction sees as its words t and t + 4 (the order within a step is free, see mma.cuh): of
//    an operand along k that is one read of 8 bytes.
// 3. Banks. Along k a row of words is 8 or 24 banks further than the one before it, and the 16
//    lanes that read 8 bytes together meet 32 banks; across k, where [word][i] lies as it comes
//    from memory, a row of i is 4 or 20 further, and lanes 8 t + g do.
// 4. Slices share the steps of a stage among groups of warps, and their partial sums meet, 16 rows
//    of each warp at a time, in the memory of the stages, which have been read by then.
//
// Case L, [784, 1024, 1024, 10] with 512 rows, estimated for an H200 (132 multiprocessors, 1.8 GHz)
// and not measured. A stage of 64 x 64 x 32 in tf32 moves 16 KiB from L2, 16 KiB into the stage and
// 24 KiB out of it: 448 cycles at 128 bytes a cycle. Its 128 instructions on tensor cores take
// about 210, and all instructions of 8 warps on 4 schedulers (196 to 281 a warp, counted in the
// machine code) 390 to 560. So memory of the multiprocessor and instructions are the limit, not the
// tensor cores. A multiprocessor has one tile of the forward passes and of BP2 and two of each
// update:
//     25 x 504 + 32 x 448 + 32 x 448 + 2 x 16 x 562 + 2 x 16 x 448 stages' cycles = 74,000 = 41 us,
// with 5 beginnings and ends of 1 us and 5 small kernels of 2 us: about 55 us. A stage in bf16 is
// twice as deep and takes 580 to 840 cycles: 29 us, 45 in all. To come closer to the tensor cores'
// 20 us operands would have to lie in memory rounded, once, to be copied by cp.async as they are.

#include "mma.cuh"

template <class Precision, int BM_, int BN_, int BK, int WM, int WN, int SLICES> struct MmaTile {
    static constexpr int BM = BM_, BN = BN_, ROW_WARPS = BM / WM, COLUMN_WARPS = BN / WN;
    static constexpr int THREADS = 32 * ROW_WARPS * COLUMN_WARPS * SLICES;
    static constexpr int PER_WORD = Precision::PER_WORD, WORDS = BK / PER_WORD;
    static constexpr int LANES = WORDS % 32 == 0 ? 32 * PER_WORD : 16;
    static_assert(BK % LANES == 0 && WORDS % (8 * SLICES) == 0, "a slice takes whole steps");

    template <bool ALONG_K, int WIDTH> struct Stage {
        static constexpr int ROWS = ALONG_K ? WIDTH : WORDS;
        static constexpr int PITCH = ALONG_K ? (WORDS % 16 ? WORDS : WORDS + 8) : WIDTH + 4;
        alignas(16) unsigned words[ROWS][PITCH];

        template <int RUN> __device__ void put(int i, int k, const float (&values)[RUN])
        {
            typedef typename Precision::Stored Stored;
            Stored rounded[RUN];
#pragma unroll
            for (int q = 0; q < RUN; q++) rounded[q] = Precision::rounded(values[q]);
            const int w = k / PER_WORD;
            Stored* at = reinterpret_cast<Stored*>(ALONG_K ? words[i] + w : words[w] + i);
            at += k % PER_WORD;
            if (ALONG_K || PER_WORD == 1) {
                write_run(at, rounded);
            } else {
#pragma unroll
                for (int q = 0; q < RUN; q++) at[q * PER_WORD] = rounded[q];
            }
        }
        // Words w and w + 1 of row i.
        __device__ void read(int i, int w, unsigned& first, unsigned& second) const
        {
            if (ALONG_K) {
                const uint2 both = *reinterpret_cast<const uint2*>(&words[i][w]);
                first = both.x;
                second = both.y;
            } else {
                first = words[w][i];
                second = words[w + 1][i];
            }
        }
    };
    template <bool A_ALONG_K, bool B_ALONG_K> union Shared {
        struct {
            Stage<A_ALONG_K, BM> a[2];
            Stage<B_ALONG_K, BN> b[2];
        };
        float partial[SLICES][16 * ROW_WARPS][BN + 8];
    };

    template <
        int A_RUN, int B_RUN, bool A_ALONG_K, bool B_ALONG_K, class A, class B, class Each,
        class Epilogue>
    static __device__ void product(
        Shared<A_ALONG_K, B_ALONG_K>& shared, int tile, int rows, int columns, int depth,
        const A& a_line, const B& b_line, const Each& each_a, const Epilogue& epilogue)
    {
        const int i0 = tile_row<MmaTile>(tile, columns) * BM, t = threadIdx.x;
        const int j0 = tile_column<MmaTile>(tile, columns) * BN;
        const int warp = t / 32, lane_g = t % 32 / 4, lane_t = t % 4;
        const int column_warp = warp % COLUMN_WARPS, row_warp = warp / COLUMN_WARPS % ROW_WARPS;
        const int slice = warp / (COLUMN_WARPS * ROW_WARPS);

        Carried<A_ALONG_K, BM, BK, LANES, A_RUN, THREADS> a;
        Carried<B_ALONG_K, BN, BK, LANES, B_RUN, THREADS> b;
        float sum[WM / 16][WN / 8][4] = {};

        const auto fetch = [&](int k0) {
            a.fetch(a_line, i0, rows, k0, depth);
            b.fetch(b_line, j0, columns, k0, depth);
        };
        const auto deposit = [&](int buffer) {
            a.deposit([&](int i, int k, const float(&values)[A_RUN]) {
#pragma unroll
                for (int q = 0; q < A_RUN; q++) each_a(q, values[q]);
                shared.a[buffer].put(i, k, values);
            });
            b.deposit([&](int j, int k, const float(&values)[B_RUN]) {
                shared.b[buffer].put(j, k, values);
            });
        };

        fetch(0);
        deposit(0);
        __syncthreads();
        for (int k0 = 0, buffer = 0; k0 < depth; k0 += BK) {
            if (k0 + BK < depth) fetch(k0 + BK);
#pragma unroll
            for (int turn = 0; turn < WORDS / 8 / SLICES; turn++) {
                const int w = 8 * (turn * SLICES + slice) + 2 * lane_t;
                unsigned a_w[WM / 16][4], b_w[WN / 8][2];
#pragma unroll
                for (int p = 0; p < WM / 16; p++) {
                    const int i = row_warp * WM + 16 * p + lane_g;
                    shared.a[buffer].read(i, w, a_w[p][0], a_w[p][2]);
                    shared.a[buffer].read(i + 8, w, a_w[p][1], a_w[p][3]);
                }
#pragma unroll
                for (int q = 0; q < WN / 8; q++) {
                    const int j = column_warp * WN + 8 * q + lane_g;
                    shared.b[buffer].read(j, w, b_w[q][0], b_w[q][1]);
                }
#pragma unroll
                for (int p = 0; p < WM / 16; p++) {
#pragma unroll
                    for (int q = 0; q < WN / 8; q++) Precision::mma(sum[p][q], a_w[p], b_w[q]);
                }
            }
            buffer ^= 1;
            if (k0 + BK < depth) deposit(buffer);
            __syncthreads();
        }

#pragma unroll
        for (int p = 0; p < WM / 16; p++) {
#pragma unroll
            for (int q = 0; q < WN / 8; q++) {
                const int j = column_warp * WN + 8 * q + 2 * lane_t;
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int i = 16 * row_warp + lane_g + c / 2 * 8;
                    shared.partial[slice][i][j + c % 2] = sum[p][q][c];
                }
            }
            __syncthreads();
            for (int e = t; e < 16 * ROW_WARPS * BN; e += THREADS) {
                const int r = e / BN, i = i0 + r / 16 * WM + 16 * p + r % 16, j = j0 + e % BN;
                float c = shared.partial[0][r][e % BN];
#pragma unroll
                for (int s = 1; s < SLICES; s++) c += shared.partial[s][r][e % BN];
                if (i < rows && j < columns) epilogue(i, j, c);
            }
            __syncthreads();
        }
    }
};
