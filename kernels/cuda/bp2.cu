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

extern "C" __global__ void __launch_bounds__(THREADS, 1) bp2(
    int m, int n, int k, const T* delta, const T* w, const T* z, const T* a, T* delta_out)
{
    const auto delta_ij = [&](int i, int j) { return delta[(long long)i * N + j]; };
    const auto w_jk = [&](int c, int j) { return w[(long long)j * K + c]; };
    const auto epilogue = [&](int i, int c, T v) {
        const long long ic = (long long)i * K + c;
        delta_out[ic] = v * sigma_prime(z[ic], a[ic]);
    };
    tile_product<true, false>(m, K, N, delta_ij, w_jk, [](const AStage&) {}, epilogue);
}
