// A tile of BP4's product delta^T a, with BP3's sums of delta's columns, summed over m examples.
//
//     weight(j, c, sum_x delta_j a_c) for each element of the tile;  bias(j, sum_x delta_j) for
//     each row, by the tiles of the first column
//
// These tiles add up delta's columns as they fetch them for the product: unrounded, whatever its
// precision. A thread fetches the same rows of delta^T always; what the threads have meets at the
// end.

template <class Tile, int DELTA_ONCE> struct OuterShared {
    typename Tile::template Shared<false, false> product;
    T bias_sums[Tile::THREADS * DELTA_ONCE];
};

template <
    class Tile, int DELTA_ONCE, int INPUTS_ONCE, class Delta, class Inputs, class Weight,
    class Bias>
__device__ inline void outer_sum_tile(
    OuterShared<Tile, DELTA_ONCE>& shared, int tile, int n, int k, int m, const Delta& delta_i,
    const Inputs& a_i, const Weight& weight, const Bias& bias)
{
    constexpr int BM = Tile::BM, COUNT = Tile::THREADS * DELTA_ONCE;
    static_assert(Tile::THREADS % BM == 0, "or a thread's rows would differ from turn to turn");
    const bool first_column = tile_column<Tile>(tile, k) == 0;
    T bias_sum[DELTA_ONCE] = {};
    const auto bp3 = [&](int q, T delta_ij) {
        if (first_column) bias_sum[q] += delta_ij;
    };
    Tile::template product<DELTA_ONCE, INPUTS_ONCE>(
        shared.product, tile, n, k, m, delta_i, a_i, bp3, weight);

    // Rows 0 .. BM - 1 of the tile, then these again, and so on.
    for (int q = 0; q < DELTA_ONCE; q++) {
        shared.bias_sums[threadIdx.x * DELTA_ONCE + q] = bias_sum[q];
    }
    __syncthreads();
    const int j = tile_row<Tile>(tile, k) * BM + threadIdx.x;
    if (first_column && threadIdx.x < BM && j < n) {
        T sum = 0;
        for (int e = threadIdx.x; e < COUNT; e += BM) sum += shared.bias_sums[e];
        bias(j, sum);
    }
}
