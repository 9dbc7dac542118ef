// The product that forward, BP2 and BP4 have in common, one tile of it a block:
//
//     C(i, j) = sum_k A(i, k) B(j, k),    BM x BN elements of C, k = 0 .. depth - 1
//
// Plain twin: one thread an element, which reads 2 depth numbers from memory for depth products.
//
// 1. Shared memory. A stage of BK values of k is fetched once for the whole tile, BM + BN numbers
//    for BM BN products. Two stages alternate: while one is multiplied, the next is on its way into
//    registers, so that the latency of memory hides behind arithmetic, and one barrier a stage will
//    do.
// 2. Registers. A thread owns TM x TN elements and reads TM + TN numbers for TM TN products. They
//    stand in strips of up to 16 bytes, so that a strip is one wide read and neighbouring threads
//    read neighbouring strips.
// 3. Slices. The THREADS threads are SLICES groups, each of which owns the whole tile and every
//    SLICES-th k. A small layer (m = 10, n = 30, k = 784) so keeps small tiles, which are many
//    blocks, and still has 256 threads in each; a large one keeps enough warps in flight beside its
//    8 x 8 registers. Splitting k over blocks instead would need a fence and a second pass,
//    which should cost more than they save (an estimate, not measured).
// 4. The partial sums of the slices meet in shared memory, a row of each thread at a time, are
//    added in a fixed order, and are handed to the epilogue with neighbouring threads on
//    neighbouring columns.
//
// A and B are functions of (i, k) and (j, k) within the bounds; what lies beyond counts as 0.
// *_ALONG_K says that neighbours in memory differ by one in k (else in i or j). Such an operand is
// turned over on its way: 8 k of 4 rows a warp, full 32-byte sectors of memory, and with rows of
// shared memory of 4 x an odd number of words, 32 different banks.

constexpr int ROW_THREADS = BM / TM, COLUMN_THREADS = BN / TN;
constexpr int THREADS = ROW_THREADS * COLUMN_THREADS * SLICES;
constexpr int A_PITCH = BM % 8 ? BM : BM + 4, B_PITCH = BN % 8 ? BN : BN + 4;
constexpr int A_TURNS = (BM * BK + THREADS - 1) / THREADS;
constexpr int B_TURNS = (BN * BK + THREADS - 1) / THREADS;

// A strip: what a thread reads at once, up to 16 bytes of PER elements.
template <int PER> struct alignas(PER * sizeof(T) < 16 ? PER * sizeof(T) : 16) Strip {
    static constexpr int WIDTH = PER * sizeof(T) < 16 ? PER : 16 / sizeof(T);
    T at[WIDTH];
};

// A stage in shared memory: for each k, the elements i in strips.
typedef Strip<TM> AStage[BK][A_PITCH / Strip<TM>::WIDTH];
typedef Strip<TN> BStage[BK][B_PITCH / Strip<TN>::WIDTH];
template <class Stage> __device__ inline auto& element(Stage& stage, int i, int k)
{
    constexpr int WIDTH = sizeof(stage[0][0]) / sizeof(T);
    return stage[k][i / WIDTH].at[i % WIDTH];
}

// The place (i, k) of the element of a stage of WIDTH x BK that is fetched e-th.
template <bool ALONG_K, int WIDTH> __device__ inline int stage_i(int e)
{
    return ALONG_K ? e / 8 % WIDTH : e % WIDTH;
}
template <bool ALONG_K, int WIDTH> __device__ inline int stage_k(int e)
{
    return ALONG_K ? e / (8 * WIDTH) * 8 + e % 8 : e / WIDTH;
}

// The p-th of the PER elements that thread t of COUNT owns in one direction of the tile.
template <int COUNT, int PER> __device__ inline int owned(int t, int p)
{
    constexpr int WIDTH = Strip<PER>::WIDTH;
    return (p / WIDTH * COUNT + t) * WIDTH + p % WIDTH;
}

// All PER of them, from a row of shared memory.
template <int COUNT, int PER>
__device__ inline void read(const Strip<PER>* row, int t, T (&to)[PER])
{
    constexpr int WIDTH = Strip<PER>::WIDTH;
#pragma unroll
    for (int strip = 0; strip < PER / WIDTH; strip++) {
        const Strip<PER> found = row[strip * COUNT + t];
#pragma unroll
        for (int p = 0; p < WIDTH; p++) to[strip * WIDTH + p] = found.at[p];
    }
}

// The tiles of C come row after row: blocks that run together read the same rows of A.
__device__ inline int tile_row(int columns) { return blockIdx.x / ((columns + BN - 1) / BN); }
__device__ inline int tile_column(int columns) { return blockIdx.x % ((columns + BN - 1) / BN); }

// ``each_stage(a)`` sees each stage of A; ``epilogue(i, j, c)`` gets each element of C once.
template <bool A_ALONG_K, bool B_ALONG_K, class A, class B, class Each, class Epilogue>
__device__ inline void tile_product(
    int rows, int columns, int depth, const A& a, const B& b, const Each& each_stage,
    const Epilogue& epilogue)
{
    __shared__ AStage a_stage[2];
    __shared__ BStage b_stage[2];
    __shared__ T partial[SLICES][ROW_THREADS][BN];

    const int t = threadIdx.x, i0 = tile_row(columns) * BM, j0 = tile_column(columns) * BN;
    const int column_thread = t % COLUMN_THREADS;
    const int row_thread = t / COLUMN_THREADS % ROW_THREADS;
    const int slice = t / (COLUMN_THREADS * ROW_THREADS);

    T a_next[A_TURNS], b_next[B_TURNS], sum[TM][TN] = {};

    const auto fetch = [&](int k0) {
#pragma unroll
        for (int turn = 0; turn < A_TURNS; turn++) {
            const int e = t + turn * THREADS;
            const int i = i0 + stage_i<A_ALONG_K, BM>(e), k = k0 + stage_k<A_ALONG_K, BM>(e);
            a_next[turn] = e < BM * BK && i < rows && k < depth ? a(i, k) : T(0);
        }
#pragma unroll
        for (int turn = 0; turn < B_TURNS; turn++) {
            const int e = t + turn * THREADS;
            const int j = j0 + stage_i<B_ALONG_K, BN>(e), k = k0 + stage_k<B_ALONG_K, BN>(e);
            b_next[turn] = e < BN * BK && j < columns && k < depth ? b(j, k) : T(0);
        }
    };
    const auto deposit = [&](int buffer) {
#pragma unroll
        for (int turn = 0; turn < A_TURNS; turn++) {
            const int e = t + turn * THREADS;
            const int i = stage_i<A_ALONG_K, BM>(e), k = stage_k<A_ALONG_K, BM>(e);
            if (e < BM * BK) element(a_stage[buffer], i, k) = a_next[turn];
        }
#pragma unroll
        for (int turn = 0; turn < B_TURNS; turn++) {
            const int e = t + turn * THREADS;
            const int j = stage_i<B_ALONG_K, BN>(e), k = stage_k<B_ALONG_K, BN>(e);
            if (e < BN * BK) element(b_stage[buffer], j, k) = b_next[turn];
        }
    };

    fetch(0);
    deposit(0);
    __syncthreads();
    for (int k0 = 0, buffer = 0; k0 < depth; k0 += BK) {
        if (k0 + BK < depth) fetch(k0 + BK);
        each_stage(a_stage[buffer]);
#pragma unroll
        for (int turn = 0; turn < BK / SLICES; turn++) {
            T a_k[TM], b_k[TN];
            read<ROW_THREADS, TM>(a_stage[buffer][turn * SLICES + slice], row_thread, a_k);
            read<COLUMN_THREADS, TN>(b_stage[buffer][turn * SLICES + slice], column_thread, b_k);
#pragma unroll
            for (int p = 0; p < TM; p++) {
#pragma unroll
                for (int q = 0; q < TN; q++) sum[p][q] += a_k[p] * b_k[q];
            }
        }
#ifndef MUTANT_SINGLE_BUFFER
        buffer ^= 1;
#endif
        if (k0 + BK < depth) deposit(buffer);
#ifndef MUTANT_STAGE_WITHOUT_BARRIER
        __syncthreads();
#endif
    }

#pragma unroll
    for (int p = 0; p < TM; p++) {
#pragma unroll
        for (int q = 0; q < TN; q++) {
            partial[slice][row_thread][owned<COLUMN_THREADS, TN>(column_thread, q)] = sum[p][q];
        }
#ifndef MUTANT_SLICES_WITHOUT_BARRIER
        __syncthreads();
#endif
        for (int e = t; e < ROW_THREADS * BN; e += THREADS) {
            const int i = i0 + owned<ROW_THREADS, TM>(e / BN, p), j = j0 + e % BN;
            T c = partial[0][e / BN][e % BN];
#pragma unroll
            for (int s = 1; s < SLICES; s++) c += partial[s][e / BN][e % BN];
#ifdef MUTANT_NO_GUARD_OF_COLUMNS
            if (i < rows) epilogue(i, j, c);
#else
            if (i < rows && j < columns) epilogue(i, j, c);
#endif
        }
#ifndef MUTANT_PARTIAL_REUSED_WITHOUT_BARRIER
        __syncthreads();
#endif
    }
}
