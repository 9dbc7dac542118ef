// cooperative: many mini-batches in one launch, by all multiprocessors, with barriers of the grid.
//
//     for each mini-batch of M examples (the last may be smaller):
//         1   z^2, a^2 = forward of the first layer with weights, tile by tile over the grid
//         2   rows of the mini-batch: forward through all later layers (the head), BP1, BP2 down to
//             the delta of the first layer
//         3   BP4, BP3 and the update of every layer, tile by tile over the grid
//
// Plain twin: the launches of minibatch.py, forward, BP1, BP2 and outer_sum, whose tiles and
// epilogues these are. A launch should cost about 2 us even in a graph, more than these networks'
// arithmetic; a barrier of the grid costs two fences and a round trip to the second-level cache,
// about 1 us (estimates, here and below: nothing has been measured).
//
// Why this shape. Rows are independent in 2, so that a block takes its rows through the whole head
// and back with barriers of its own only; a pair (row, neuron) is a dot product by a warp. Three
// barriers then: z^2 needs all of w^2 updated, a row needs all tiles of its a^2, and the updates
// need all rows (they also change weights that rows still read). Two would do if each tile of 3
// worked out the delta it needs from a^2 again: in case M that is 128 x (128 x 10 + 32 x 10) =
// 205,000 products a block beside the tile's own 131,000: about 1.5 us for the 1 us of a barrier
// and the 0.8 us of 2.
//
// Launch: cooperative, BLOCK threads, at most one block a multiprocessor, which always finds room
// (256 threads of up to 255 registers, 48 KiB of shared memory); right for any number of blocks.
// What lies between the phases (z, a, delta) is in memory, layer after layer, M rows each; weights,
// biases and what the update rule keeps beside them are the flat arrays of gpubp/parameters.py, one
// behind the other; the rule's numbers have a row a mini-batch. Each thread adds up its costs
// and penalties in double over all mini-batches, each block has a sum of its own: no floating-point
// atomics, and a run repeats bit for bit.
//
// Cost, estimated for an H200 at 1.8 GHz and case M, [784, 128, 10] with M = 128, not measured:
//     1   128 tiles of 8 x 16, one a block: 784 x (8 bytes + 16 floats) = 56 KB from L2 and 50,000
//         reads of 8 bytes from shared memory: 1.6 us
//     2   a row a block: 2 rounds of dot products, BP1, 10 steps of BP2, each a round trip: 0.8 us
//     3   100 tiles of 32 x 32 and 48 of 4 x 8 over 128 examples: 1.4 us
//     three barriers 3 us: 6.8 us in all, where 6 launches of a graph take 12 or more.

#include "common.cuh"

// Of layer l, where l = 0 is the first with weights.
template <int l> __device__ T sigma(T z);
template <int l> __device__ T sigma_prime(T z, T a);

#include "formulas.cuh"
#include "tile.cuh"
#include "outer_sum_tile.cuh"
#include "update.cuh"
#include "output_row.cuh"
#include "grid.cuh"

__device__ constexpr int neurons(int l)  // l = 0 is the input
{
    const int sizes[] = {SIZES};
    return sizes[l];
}
__device__ constexpr long long weights_before(int l)
{
    long long sum = 0;
    for (int i = 0; i < l; i++) sum += (long long)neurons(i) * neurons(i + 1);
    return sum;
}
__device__ constexpr long long neurons_before(int l)
{
    long long sum = 0;
    for (int i = 0; i < l; i++) sum += neurons(i + 1);
    return sum;
}

constexpr long long PARAMETERS = weights_before(LAYERS) + neurons_before(LAYERS);

// How many neighbours of a line are read at once; see tile.cuh.
constexpr int MOST_AT_ONCE = 16 / sizeof(T);
__device__ constexpr int at_once(int length, long long begin)
{
    return length % MOST_AT_ONCE == 0 && begin % MOST_AT_ONCE == 0 ? MOST_AT_ONCE : 1;
}

// Layer l: n_l = N, n_{l-1} = K, and where its arrays begin: w (N, K) and b (N,) in the parameters;
// z, a and delta (M, N) in theirs.
template <int l> struct Layer {
    static constexpr int K = neurons(l), N = neurons(l + 1);
    static constexpr long long W = weights_before(l);
    static constexpr long long B = weights_before(LAYERS) + neurons_before(l);
    static constexpr long long Z = M * neurons_before(l);
    static constexpr int W_RUN = at_once(K, W), Z_RUN = at_once(N, Z);
};
template <> struct Layer<-1> { static constexpr long long Z = 0; };
template <int l> struct UpdateTile { typedef TILE_HEAD type; };
template <> struct UpdateTile<0> { typedef TILE_FIRST type; };

struct Arrays {
    const Input* x;
    const Target* y;
    T *flat, *state, *z, *a, *delta;
};

union Work {  // one after another, with barriers in between
    TILE_FORWARD::Shared<true, true> forward;
    OuterShared<TILE_FIRST, MOST_AT_ONCE> first;
    OuterShared<TILE_HEAD, MOST_AT_ONCE> head;
};

constexpr int WARPS = BLOCK / 32;

// 1: z^2 = w^2 a^1 + b^2, a^2 = sigma(z^2).
__device__ inline void forward_first(
    const Arrays& at, Work& work, const long long* rows, int m)
{
    typedef Layer<0> L;
    const T *w = at.flat + L::W, *b = at.flat + L::B;
    const auto x_i = [&](int i) { return at.x + rows[i] * L::K; };
    const auto w_j = [&](int j) { return w + (long long)j * L::K; };
    const auto epilogue = [&](int i, int j, T sum) {
        const T z_ij = sum + b[j];
        at.z[(long long)i * L::N + j] = z_ij;
        at.a[(long long)i * L::N + j] = sigma<0>(z_ij);
    };
    typedef TILE_FORWARD Forward;
    constexpr int ACROSS = (L::N + Forward::BN - 1) / Forward::BN;
    const int tiles = (m + Forward::BM - 1) / Forward::BM * ACROSS;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        Forward::product<X_RUN, L::W_RUN>(
            work.forward, tile, m, L::N, L::K, x_i, w_j, [](int, T) {}, epilogue);
    }
}

// 2, upwards: z^l = w^l a^{l-1} + b^l of this block's rows, for layers l and above. A warp takes a
// pair of row and neuron at a time.
template <int l> __device__ inline void forward_rows(const Arrays& at, int begin, int end)
{
    if constexpr (l < LAYERS) {
        typedef Layer<l> L;
        const int lane = threadIdx.x % 32;
        for (int e = threadIdx.x / 32; e < (end - begin) * L::N; e += WARPS) {
            const int i = begin + e / L::N, j = e % L::N;
            const T* w_j = at.flat + L::W + (long long)j * L::K;
            const T* a_i = at.a + Layer<l - 1>::Z + (long long)i * L::K;
            T sum = 0;
            for (int k = lane; k < L::K; k += 32) sum += w_j[k] * a_i[k];
            sum = warp_sum(sum);
            if (lane == 0) {
                const T z_ij = sum + at.flat[L::B + j];
                at.z[L::Z + (long long)i * L::N + j] = z_ij;
                at.a[L::Z + (long long)i * L::N + j] = sigma<l>(z_ij);
            }
        }
        __syncthreads();
        forward_rows<l + 1>(at, begin, end);
    }
}

// 2, downwards: BP2 of layer l, delta^{l-1} = (delta^l w^l) (x) sigma'(z^{l-1}), and of those
// below. A thread takes a neuron k of a row at a time: neighbours read neighbouring weights.
template <int l> __device__ inline void backward_rows(const Arrays& at, int begin, int end)
{
    if constexpr (l > 0) {
        typedef Layer<l> L;
        const T* w = at.flat + L::W;
        for (int e = threadIdx.x; e < (end - begin) * L::K; e += BLOCK) {
            const int i = begin + e / L::K, k = e % L::K;
            const T* delta_i = at.delta + L::Z + (long long)i * L::N;
            const long long ik = Layer<l - 1>::Z + (long long)i * L::K + k;
            T v = 0;
#pragma unroll 8
            for (int j = 0; j < L::N; j++) v += delta_i[j] * w[(long long)j * L::K + k];
            at.delta[ik] = v * sigma_prime<l - 1>(at.z[ik], at.a[ik]);
        }
        __syncthreads();
        backward_rows<l - 1>(at, begin, end);
    }
}

// 3: BP4, BP3 and the update of layer l and those above, from the ``tile``-th tile on; this
// thread's part of the penalty.
template <int l>
__device__ inline double update_layers(
    const Arrays& at, Work& work, const long long* rows, int m, const Rule& rule, int tile)
{
    double penalty = 0;
    if constexpr (l < LAYERS) {
        typedef Layer<l> L;
        typedef typename UpdateTile<l>::type Update;
        constexpr int TILES =
            (L::N + Update::BM - 1) / Update::BM * ((L::K + Update::BN - 1) / Update::BN);
        T *w = at.flat + L::W, *b = at.flat + L::B;
        T *w_state = at.state + L::W, *b_state = at.state + L::B;
        const auto delta_i = [&](int i) { return at.delta + L::Z + (long long)i * L::N; };
        const auto weight = [&](int j, int c, T sum) {
            const long long jc = (long long)j * L::K + c;
            penalty += update_weight(w[jc], w_state + jc, PARAMETERS, sum / T(m), rule);
        };
        const auto bias = [&](int j, T sum) {
            update(b[j], b_state + j, PARAMETERS, sum / T(m), rule);
        };
        auto& shared = reinterpret_cast<OuterShared<Update, L::Z_RUN>&>(work);
        for (; tile < TILES; tile += gridDim.x) {
            if constexpr (l == 0) {
                const auto x_i = [&](int i) { return at.x + rows[i] * L::K; };
                outer_sum_tile<Update, L::Z_RUN, X_RUN>(
                    shared, tile, L::N, L::K, m, delta_i, x_i, weight, bias);
            } else {
                typedef Layer<l - 1> Below;
                const auto a_i = [&](int i) { return at.a + Below::Z + (long long)i * L::K; };
                outer_sum_tile<Update, L::Z_RUN, Below::Z_RUN>(
                    shared, tile, L::N, L::K, m, delta_i, a_i, weight, bias);
            }
            __syncthreads();  // the next tile may be of another shape in the same memory
        }
        penalty += update_layers<l + 1>(at, work, rows, m, rule, tile - TILES);
    }
    return penalty;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1) cooperative(
    const Input* x, const Target* y, const T* importance, const long long* order, long long first,
    int examples, T* flat, T* state, T* z, T* a, T* delta, const T* numbers, double* costs,
    unsigned* arrived)
{
    static_assert(
        BLOCK == TILE_FORWARD::THREADS && BLOCK == TILE_FIRST::THREADS
            && BLOCK == TILE_HEAD::THREADS, "one launch");
    typedef Layer<LAYERS - 1> Output;
    __shared__ Work work;
    const Arrays at = {x, y, flat, state, z, a, delta};
    __shared__ BlockSum<BLOCK> told;
    unsigned goal = 0;

    for (int start = 0; start < examples; start += M) {
        const int m = min(M, examples - start);
        double objective = 0;
        const long long* rows = order + first + start;
        const Rule rule = rule_of(numbers, start / M);  // so early that nobody waits for it

        forward_first(at, work, rows, m);
        grid_barrier(arrived, goal);

        const int share = (m + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * share;
        const int end = min(m, begin + share);
        forward_rows<1>(at, begin, end);
        for (int i = begin + threadIdx.x / 32; i < end; i += WARPS) {
            const long long i_0 = Output::Z + (long long)i * Output::N;
            const T counted = importance_of(importance, first + start + i);
            objective +=
                output_row(z + i_0, a + i_0, y, rows[i], Output::N, counted, delta + i_0);
        }
        __syncthreads();
        backward_rows<LAYERS - 1>(at, begin, end);
        grid_barrier(arrived, goal);

        objective += m * update_layers<0>(at, work, rows, m, rule, blockIdx.x);
        told.put(objective);
        grid_barrier(arrived, goal);
        if (threadIdx.x == 0) costs[start / M * gridDim.x + blockIdx.x] = told.total();
    }
}
