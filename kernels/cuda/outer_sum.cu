// outer_sum: BP4 and BP3 summed over a mini-batch, and in training the update by them.
//
//     product (n, k) = sum_x delta a^T,  column_sum (n,) = sum_x delta,  delta (m, n), a (m, k)
//     g = product / m,  of biases column_sum / m;  plain SGD's update:  w <- w - eta g
//
// Plain twin: delta.T @ a, delta.sum(axis=0), and the update rule's passes over all parameters.
// Here the gradient never reaches memory: with UPDATE the epilogue of the product changes w, and
// the STATES numbers that the rule keeps beside it (update.cuh). BP3 comes with the product
// (outer_sum_tile.cuh).
//
// The rule's numbers change from step to step: a graph's launches find theirs by how many steps are
// done and by their place in the graph, the argument ``step``.
//
// The penalty of the weights before their update belongs to the cost of this mini-batch. Each block
// writes m times its tile's share, in double, to a place of its own: no two blocks meet, so a run
// repeats bit for bit without atomics.
//
// Launch: a block a tile of w. With GATHER, a is the data set; see forward.cu.
//
// Cost: m n k products; each weight and its state read and written once; m (BM + BN) numbers read a
// block.

#include "common.cuh"
#include "tile.cuh"
#include "tile_async.cuh"
#include "tile_mma.cuh"
#include "outer_sum_tile.cuh"
#if UPDATE
#include "update.cuh"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK, 1) outer_sum(
    int m, int n, int k, const T* delta, const Input* a,
#if GATHER
    const long long* order, const long long* first, int offset,
#endif
#if UPDATE
    T* w, T* b, T* w_state, T* b_state, long long apart, const T* numbers, const long long* done,
    int step, double* penalty
#else
    T* product, T* column_sum
#endif
)
{
    static_assert(BLOCK == TILE::THREADS, "as launched");
    double block_penalty = 0;
#if GATHER
    const long long* rows = order + *first + offset;
    const auto a_i = [&](int i) { return a + rows[i] * K; };
#else
    const Lines<Input> a_i = {a, K};
#endif
    const Lines<T> delta_i = {delta, N};
#if UPDATE
    const Rule rule = rule_of(numbers, *done + step);
#endif
    const auto weight = [&](int j, int c, T sum) {
        const long long jc = (long long)j * K + c;
#if UPDATE
        block_penalty += update_weight(w[jc], w_state + jc, apart, sum / T(m), rule);
#else
        product[jc] = sum;
#endif
    };
    const auto bias = [&](int j, T sum) {
#if UPDATE
        update(b[j], b_state + j, apart, sum / T(m), rule);
#else
        column_sum[j] = sum;
#endif
    };
    __shared__ OuterShared<TILE, DELTA_RUN> shared;
    outer_sum_tile<TILE, DELTA_RUN, X_RUN>(
        shared, blockIdx.x, N, K, m, delta_i, a_i, weight, bias);
#if UPDATE && PENALTY
    block_penalty = block_sum<BLOCK>(block_penalty);
    if (threadIdx.x == 0) penalty[blockIdx.x] = m * block_penalty;
#endif
}
