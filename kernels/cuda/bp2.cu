// BP2: delta^l = ((w^{l+1})^T delta^{l+1}) (x) sigma'(z^l), for the m rows of a mini-batch.
//
//     delta_out (m, k) = (delta w) (x) sigma'(z, a),  delta (m, n), w (n, k), z and a (m, k)
//
// Plain twin: hadamard_sigma_prime(delta @ w, z, a), with (m, k) numbers written and read again in
// between. Here sigma' is in the epilogue of the product. w^{l+1} must be the weights before their
// update: this kernel stands before outer_sum of layer l + 1 in the stream.
//
// Launch: a block a tile of delta^l.
// Cost: m n k products; n (BM + BN) numbers read a block.

#include "common.cuh"
#include "formulas.cuh"
#include "tile.cuh"
#include "tile_async.cuh"
#include "tile_mma.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK, 1) bp2(
    int m, int n, int k, const T* delta, const T* w, const T* z, const T* a, T* delta_out)
{
    const Lines<T> delta_i = {delta, N}, w_j = {w, K};
    const auto epilogue = [&](int i, int c, T v) {
        const long long ic = (long long)i * K + c;
        delta_out[ic] = v * sigma_prime(z[ic], a[ic]);
    };
    __shared__ TILE::Shared<true, false> shared;
    TILE::product<DELTA_RUN, W_RUN>(
        shared, blockIdx.x, m, K, N, delta_i, w_j, [](int, T) {}, epilogue);
}
