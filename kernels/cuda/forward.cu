// forward: z^l = w^l a^{l-1} + b^l,  a^l = sigma(z^l), for the m rows of a mini-batch.
//
//     z (m, n) = x w^T + b,  x (m, k), w (n, k), b (n,);  a (m, n) = sigma(z)
//
// Plain twin: z = x @ w.T + b; a = sigma(z), three passes over z. Here bias and activation are in
// the epilogue of the product, while z is in a register.
//
// Launch: a block a tile of z. With GATHER, x is the whole data set, and row i of the mini-batch is
// the example order[*first + offset + i]: nothing is copied, each block reads the rows it needs
// where they lie, bytes as bytes. Where a graph replays this launch, *first has moved on.
//
// Softmax needs whole rows: bp1 and score take it from z, and a is z (sigma is the identity here).
//
// Cost: m n k products; k (BM + BN) numbers read a block, from the second-level cache after the
// first.

#include "common.cuh"
#include "formulas.cuh"
#include "tile.cuh"
#include "tile_async.cuh"
#include "tile_mma.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK, 1) forward(
    int m, int n, int k, const Input* x, const T* w, const T* b, T* z, T* a
#if GATHER
    , const long long* order, const long long* first, int offset
#endif
)
{
#if GATHER
    const long long* rows = order + *first + offset;
    const auto x_i = [&](int i) { return x + rows[i] * K; };
#else
    const Lines<Input> x_i = {x, K};
#endif
    const Lines<T> w_j = {w, K};
    const auto epilogue = [&](int i, int j, T sum) {
        const T z_ij = sum + b[j];
        z[(long long)i * N + j] = z_ij;
        a[(long long)i * N + j] = sigma(z_ij);
    };
    __shared__ TILE::Shared<true, true> shared;
    TILE::product<X_RUN, W_RUN>(
        shared, blockIdx.x, m, N, K, x_i, w_j, [](int, T) {}, epilogue);
}
