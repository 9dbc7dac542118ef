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
// A and B are given by ``line(l)``, where line l of that matrix begins in memory: the line of an i
// (or j) if it is ALONG_K, else the line of a k. What lies beyond the bounds counts as 0. Each
// thread reads runs of RUN neighbours of a line, 16 bytes of floats, where the lines' length and
// their beginnings allow: a fourth of the addresses, which else were half of all instructions. An
// operand along k is turned over on its way: 8 k of 4 rows a warp (of 16 in runs of four), full
// 32-byte sectors of memory, and with rows of shared memory of 4 x an odd number of words, 32
// different banks.
//
// Instructions of a stage of 64 x 64 x 16, a thread of 256, in sm_90's machine code: 256 fma of 319
// (forward), 322 (BP2), 320 (update), with bytes gathered 352 and 356; before there were runs, 389
// to 495. At an instruction a cycle and scheduler, case L, [784, 1024, 1024, 10] with 512 rows, is
//     2 x (49 x 352 + 64 x 319 + 64 x 322 + 2 x 32 x 356 + 2 x 32 x 320) cycles = 203,000 (an
// update is two tiles a multiprocessor), 113 us at 1.8 GHz (counted, not measured), where
// the arithmetic alone at its best is 73; and 10 small kernels, beginnings and ends of 1 to 2 us.
//
// ``each_a(q, value)`` sees, once, all that a thread fetches of A: of an A that is not along k
// these are elements of row RUN * (t % (BM / RUN)) + q of the tile alone. ``epilogue(i, j, c)``
// gets each element of C once.

#include "runs.cuh"

// The tiles of C come row after row: blocks that run together read the same rows of A.
template <class Tile> __device__ inline int tile_row(int tile, int columns)
{
    return tile / ((columns + Tile::BN - 1) / Tile::BN);
}
template <class Tile> __device__ inline int tile_column(int tile, int columns)
{
    return tile % ((columns + Tile::BN - 1) / Tile::BN);
}

// What the THREADS threads carry of one operand from memory to a stage of WIDTH x BK: neighbouring
// threads take neighbouring runs, along k in rows of LANES elements.
template <bool ALONG_K, int WIDTH, int BK, int LANES, int RUN, int THREADS> struct Carried {
    static constexpr int RUNS = WIDTH * BK / RUN, TURNS = (RUNS + THREADS - 1) / THREADS;
    T value[TURNS][RUN];

    static __device__ int place_i(int run)
    {
        return ALONG_K ? run / (LANES / RUN) % WIDTH : run % (WIDTH / RUN) * RUN;
    }
    static __device__ int place_k(int run)
    {
        constexpr int ACROSS = LANES / RUN;
        return ALONG_K ? (run / (ACROSS * WIDTH) * ACROSS + run % ACROSS) * RUN
                       : run / (WIDTH / RUN);
    }
    template <class Line>
    __device__ void fetch(const Line& line, int i0, int width, int k0, int depth)
    {
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int run = threadIdx.x + turn * THREADS;
            const int i = i0 + place_i(run), k = k0 + place_k(run);
            if ((RUNS % THREADS == 0 || run < RUNS) && i < width && k < depth) {
                read_run(ALONG_K ? line(i) + k : line(k) + i, value[turn]);
            } else {
#pragma unroll
                for (int q = 0; q < RUN; q++) value[turn][q] = T(0);
            }
        }
    }
    // ``put(i, k, values)`` for each of the runs.
    template <class Put> __device__ void deposit(const Put& put) const
    {
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int run = threadIdx.x + turn * THREADS;
            if (RUNS % THREADS == 0 || run < RUNS) put(place_i(run), place_k(run), value[turn]);
        }
    }
};

// A strip: what a thread reads at once, up to 16 bytes of PER elements.
template <int PER> struct alignas(PER * sizeof(T) < 16 ? PER * sizeof(T) : 16) Strip {
    static constexpr int WIDTH = PER * sizeof(T) < 16 ? PER : 16 / sizeof(T);
    T at[WIDTH];
};

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

template <int BM_, int BN_, int BK, int TM, int TN, int SLICES> struct Tile {
    static constexpr int BM = BM_, BN = BN_, ROW_THREADS = BM / TM, COLUMN_THREADS = BN / TN;
    static constexpr int THREADS = ROW_THREADS * COLUMN_THREADS * SLICES;
    // A stage in shared memory: for each k, the elements i in strips.
    template <int WIDTH, int PER> struct Stage {
        static constexpr int PITCH = WIDTH % 8 ? WIDTH : WIDTH + 4;
        Strip<PER> strips[BK][PITCH / Strip<PER>::WIDTH];

        template <bool ALONG_K, int RUN> __device__ void put(int i, int k, const T (&values)[RUN])
        {
            T* at = strips[k][0].at + i;
            if (ALONG_K) {
#pragma unroll
                for (int q = 0; q < RUN; q++) at[q * PITCH] = values[q];
            } else {
                write_run(at, values);
            }
        }
    };
    template <bool A_ALONG_K, bool B_ALONG_K> struct Shared {
        Stage<BM, TM> a[2];
        Stage<BN, TN> b[2];
        T partial[SLICES][ROW_THREADS][BN];
    };

    // The ``tile``-th tile of C, by all threads of a block, in shared memory that nobody else uses
    // meanwhile.
    template <
        int A_RUN, int B_RUN, bool A_ALONG_K, bool B_ALONG_K, class A, class B, class Each,
        class Epilogue>
    static __device__ void product(
        Shared<A_ALONG_K, B_ALONG_K>& shared, int tile, int rows, int columns, int depth,
        const A& a_line, const B& b_line, const Each& each_a, const Epilogue& epilogue)
    {
        const int i0 = tile_row<Tile>(tile, columns) * BM, t = threadIdx.x;
        const int j0 = tile_column<Tile>(tile, columns) * BN;
        const int column_thread = t % COLUMN_THREADS;
        const int row_thread = t / COLUMN_THREADS % ROW_THREADS;
        const int slice = t / (COLUMN_THREADS * ROW_THREADS);

        Carried<A_ALONG_K, BM, BK, 8, A_RUN, THREADS> a;
        Carried<B_ALONG_K, BN, BK, 8, B_RUN, THREADS> b;
        T sum[TM][TN] = {};

        const auto fetch = [&](int k0) {
            a.fetch(a_line, i0, rows, k0, depth);
            b.fetch(b_line, j0, columns, k0, depth);
        };
        const auto deposit = [&](int buffer) {
            a.deposit([&](int i, int k, const T(&values)[A_RUN]) {
#pragma unroll
                for (int q = 0; q < A_RUN; q++) each_a(q, values[q]);
                shared.a[buffer].template put<A_ALONG_K>(i, k, values);
            });
            b.deposit([&](int j, int k, const T(&values)[B_RUN]) {
                shared.b[buffer].template put<B_ALONG_K>(j, k, values);
            });
        };

        fetch(0);
        deposit(0);
        __syncthreads();
        for (int k0 = 0, buffer = 0; k0 < depth; k0 += BK) {
            if (k0 + BK < depth) fetch(k0 + BK);
#pragma unroll
            for (int turn = 0; turn < BK / SLICES; turn++) {
                const int k = turn * SLICES + slice;
                T a_k[TM], b_k[TN];
                read<ROW_THREADS, TM>(shared.a[buffer].strips[k], row_thread, a_k);
                read<COLUMN_THREADS, TN>(shared.b[buffer].strips[k], column_thread, b_k);
#pragma unroll
                for (int p = 0; p < TM; p++) {
#pragma unroll
                    for (int q = 0; q < TN; q++) sum[p][q] += a_k[p] * b_k[q];
                }
            }
            buffer ^= 1;
            if (k0 + BK < depth) deposit(buffer);
            __syncthreads();
        }

#pragma unroll
        for (int p = 0; p < TM; p++) {
#pragma unroll
            for (int q = 0; q < TN; q++) {
                const int j = owned<COLUMN_THREADS, TN>(column_thread, q);
                shared.partial[slice][row_thread][j] = sum[p][q];
            }
            __syncthreads();
            for (int e = t; e < ROW_THREADS * BN; e += THREADS) {
                const int i = i0 + owned<ROW_THREADS, TM>(e / BN, p), j = j0 + e % BN;
                T c = shared.partial[0][e / BN][e % BN];
#pragma unroll
                for (int s = 1; s < SLICES; s++) c += shared.partial[s][e / BN][e % BN];
                if (i < rows && j < columns) epilogue(i, j, c);
            }
            __syncthreads();
        }
    }
};
