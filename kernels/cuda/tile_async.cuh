// The product of tile.cuh for large layers, whose operands lie in memory as they are multiplied.
//
//     C(i, j) = sum_k A(i, k) B(j, k),    BM x BN elements of C a block
//
// The interface and the plain twin are tile.cuh's; what differs is how a stage comes in.
//
// 1. A stage is copied by cp.async, 16 bytes a thread, past the registers: in tile.cuh its numbers
//    take two instructions each on their way, here a quarter of one. So both operands are of T,
//    runs of 16 bytes, and a mini-batch that is gathered from bytes is written out first
//    (gather.cu). STAGES alternate: while one is multiplied the others are on their way.
// 2. An operand along k stays as it lies, a row of BK numbers for each i, which would take turning
//    over to become tile.cuh's [k][i]. A thread reads four k of its rows at once instead: as many
//    bytes a product, in as wide reads. Rows are 4 words further than a multiple of 32, so that
//    the rows of 8 neighbouring threads begin in 8 different groups of banks.
// 3. Slices take every SLICES-th four of k. Their sums meet in the memory of the stages.
//
// Instructions of a stage of 64 x 64 x 32, a thread of 256, in sm_90's machine code: 512 fma of 572
// (forward), 586 (BP2) and 604 (update, of the tiles that add up BP3); tile.cuh takes 638, 644 and
// 632 for as much. Case L, [784, 1024, 1024, 10] with 512 rows, at an instruction a cycle and
// scheduler:
//     2 x (25 x 572 + 32 x 572 + 32 x 586 + 2 x 16 x 604 + 2 x 16 x 604) cycles = 180,000
// (an update is two tiles a multiprocessor): 95 us at 1.9 GHz (counted, not measured), where tile.cuh
// with rows gathered from bytes takes 203,000, and the fma alone 156,000.

#include "async_copy.cuh"

// A thread's PER elements in one direction, of COUNT threads: along k every COUNT-th, so that
// neighbouring threads read neighbouring rows; else in strips, as in tile.cuh.
template <bool ALONG_K, int COUNT, int PER> __device__ inline int element(int t, int p)
{
    return ALONG_K ? p * COUNT + t : owned<COUNT, PER>(t, p);
}

template <int BM_, int BN_, int BK, int TM, int TN, int SLICES, int STAGES> struct AsyncTile {
    static constexpr int BM = BM_, BN = BN_, ROW_THREADS = BM / TM, COLUMN_THREADS = BN / TN;
    static constexpr int THREADS = ROW_THREADS * COLUMN_THREADS * SLICES;
    static constexpr int RUN = 16 / sizeof(T), RUNS = BK / RUN;
    static_assert(RUNS % SLICES == 0, "a slice takes whole runs of k");
    static_assert(TM % RUN == 0 && TN % RUN == 0, "strips are whole runs");

    template <bool ALONG_K, int WIDTH> struct Stage {
        static constexpr int ROWS = ALONG_K ? WIDTH : BK, PITCH = (ALONG_K ? BK : WIDTH) + RUN;
        static constexpr int ACROSS = (ALONG_K ? BK : WIDTH) / RUN;  // runs of a row
        static constexpr int TURNS = ROWS * ACROSS / THREADS;
        static_assert(THREADS % ACROSS == 0 && ROWS * ACROSS % THREADS == 0, "whole rows a turn");
        alignas(16) T at[ROWS][PITCH];

        // Where this thread's first run lies, of the stage that begins at i0 and k = 0.
        static __device__ const T* begin(const Lines<T>& lines, int i0)
        {
            const int row = threadIdx.x / ACROSS, column = threadIdx.x % ACROSS * RUN;
            return lines.base + (ALONG_K ? i0 + row : row) * lines.pitch
                + (ALONG_K ? column : i0 + column);
        }
        static __device__ long long step(const Lines<T>& lines)
        {
            return ALONG_K ? BK : BK * lines.pitch;
        }
        // Begin to copy what ``from`` points to and the runs behind it, zeros beyond the bounds.
        __device__ void copy(
            const T* from, const Lines<T>& lines, int i0, int width, int k0, int depth)
        {
            constexpr int STRIDE = THREADS / ACROSS;  // rows from turn to turn
            const int row = threadIdx.x / ACROSS, column = threadIdx.x % ACROSS * RUN;
#pragma unroll
            for (int turn = 0; turn < TURNS; turn++) {
                const int r = row + turn * STRIDE;
                const bool there = ALONG_K ? i0 + r < width && k0 + column < depth
                                           : i0 + column < width && k0 + r < depth;
                copy_16(&at[r][column], from + turn * STRIDE * lines.pitch, there);
            }
        }
        // ``each(q, value)`` for what this thread has copied itself.
        template <class Each> __device__ void see(const Each& each) const
        {
#pragma unroll
            for (int turn = 0; turn < TURNS; turn++) {
                const int run = threadIdx.x + turn * THREADS;
                T values[RUN];
                read_run(&at[run / ACROSS][run % ACROSS * RUN], values);
#pragma unroll
                for (int q = 0; q < RUN; q++) each(q, values[q]);
            }
        }
        // to[k][p]: a thread's PER elements for RUN values of k from ``k`` on.
        template <int COUNT, int PER>
        __device__ void read(int t, int k, T (&to)[RUN][PER]) const
        {
            if (ALONG_K) {
#pragma unroll
                for (int p = 0; p < PER; p++) {
                    T values[RUN];
                    read_run(&at[element<true, COUNT, PER>(t, p)][k], values);
#pragma unroll
                    for (int q = 0; q < RUN; q++) to[q][p] = values[q];
                }
            } else {
#pragma unroll
                for (int q = 0; q < RUN; q++) {
#pragma unroll
                    for (int p = 0; p < PER; p += RUN) {
                        T values[RUN];
                        read_run(&at[k + q][element<false, COUNT, PER>(t, p)], values);
#pragma unroll
                        for (int r = 0; r < RUN; r++) to[q][p + r] = values[r];
                    }
                }
            }
        }
    };
    template <bool A_ALONG_K, bool B_ALONG_K> union Shared {
        struct {
            Stage<A_ALONG_K, BM> a[STAGES];
            Stage<B_ALONG_K, BN> b[STAGES];
        };
        T partial[SLICES][ROW_THREADS][BN];
    };

    template <
        int A_RUN, int B_RUN, bool A_ALONG_K, bool B_ALONG_K, class Each, class Epilogue>
    static __device__ void product(
        Shared<A_ALONG_K, B_ALONG_K>& shared, int tile, int rows, int columns, int depth,
        const Lines<T>& a_line, const Lines<T>& b_line, const Each& each_a, const Epilogue& epilogue)
    {
        static_assert(A_RUN == RUN && B_RUN == RUN, "only what lies in runs of 16 bytes");
        const int i0 = tile_row<AsyncTile>(tile, columns) * BM, t = threadIdx.x;
        const int j0 = tile_column<AsyncTile>(tile, columns) * BN;
        const int column_thread = t % COLUMN_THREADS;
        const int row_thread = t / COLUMN_THREADS % ROW_THREADS;
        const int slice = t / (COLUMN_THREADS * ROW_THREADS);
        T sum[TM][TN] = {};

        typedef Stage<A_ALONG_K, BM> StageA;
        typedef Stage<B_ALONG_K, BN> StageB;
        const T* a_from = StageA::begin(a_line, i0);
        const T* b_from = StageB::begin(b_line, j0);
        const auto copy = [&](int k0, int buffer) {
            if (k0 < depth) {
                shared.a[buffer].copy(a_from, a_line, i0, rows, k0, depth);
                shared.b[buffer].copy(b_from, b_line, j0, columns, k0, depth);
                a_from += StageA::step(a_line);
                b_from += StageB::step(b_line);
            }
            commit_copies();  // of nothing, too: the wait counts groups
        };
        const auto multiply = [&](int buffer) {
            shared.a[buffer].see(each_a);
#pragma unroll
            for (int turn = 0; turn < RUNS / SLICES; turn++) {
                const int k = (turn * SLICES + slice) * RUN;
                T a_k[RUN][TM], b_k[RUN][TN];
                shared.a[buffer].template read<ROW_THREADS, TM>(row_thread, k, a_k);
                shared.b[buffer].template read<COLUMN_THREADS, TN>(column_thread, k, b_k);
#pragma unroll
                for (int q = 0; q < RUN; q++) {
#pragma unroll
                    for (int p = 0; p < TM; p++) {
#pragma unroll
                        for (int r = 0; r < TN; r++) sum[p][r] += a_k[q][p] * b_k[q][r];
                    }
                }
            }
        };
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; stage++) copy(stage * BK, stage);
        for (int round = 0; round < depth; round += STAGES * BK) {
#pragma unroll
            for (int buffer = 0; buffer < STAGES; buffer++) {
                const int k0 = round + buffer * BK;
                if (k0 >= depth) break;
                wait_for_copies<STAGES - 2>();
                __syncthreads();  // all have waited, and all have read what is copied over now
                copy(k0 + (STAGES - 1) * BK, (buffer + STAGES - 1) % STAGES);
                multiply(buffer);
            }
        }
        __syncthreads();  // the partial sums take the place of the stages

#pragma unroll
        for (int p = 0; p < TM; p++) {
#pragma unroll
            for (int q = 0; q < TN; q++) {
                const int j = element<B_ALONG_K, COLUMN_THREADS, TN>(column_thread, q);
                shared.partial[slice][row_thread][j] = sum[p][q];
            }
            __syncthreads();
            for (int e = t; e < ROW_THREADS * BN; e += THREADS) {
                const int i = i0 + element<A_ALONG_K, ROW_THREADS, TM>(e / BN, p), j = j0 + e % BN;
                T c = shared.partial[0][e / BN][e % BN];
#pragma unroll
                for (int s = 1; s < SLICES; s++) c += shared.partial[s][e / BN][e % BN];
                if (i < rows && j < columns) epilogue(i, j, c);
            }
            __syncthreads();
        }
    }
};
