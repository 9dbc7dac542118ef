// The update of the head, and of all biases, by the rows that the last step left.
//
//     BP4   w_jk -= eta/m sum_x delta_j a_k    layers 1, 2, ...; by whatever rule
//     BP3   b_j  -= eta/m sum_x delta_j        layer 0, too
//
// Every block does all of it, on the same numbers in the same order: its copy of the head stays
// equal to the others' to the last bit. A thread sums the examples of one parameter at a time; the
// head is small, and there is nobody to wait for. Biases are shared out from the last thread down,
// which have fewer of the weights.

// Returns the penalty before the update.
template <int layer>
__device__ inline double update_head(Shared& s, T scale, const Rule& rule)
{
    constexpr int N = size(layer + 1), DELTA = row_pitch(layer);
    const T* delta = s.delta + rows_before(layer);
    double penalties = 0;
    if constexpr (layer > 0) {
        constexpr int K = size(layer), A = row_pitch(layer - 1);
        const T* a = s.a + rows_before(layer - 1);
        for (int e = threadIdx.x; e < N * K; e += BLOCK) {
            const int j = e / K, k = e % K;
            T* const w = s.parameters.head + head_before(layer) + j * head_pitch(layer) + k;
            T sum = 0;
#pragma unroll
            for (int i = 0; i < M; i++) sum += delta[i * DELTA + j] * a[i * A + k];
            penalties += update_weight(*w, w + ARRAY, ARRAY, sum * scale, rule);
        }
    }
    for (int j = BLOCK - 1 - threadIdx.x; j < N; j += BLOCK) {  // the others have less to do
        T* const b = s.parameters.biases + biases_before(layer) + j;
        T sum = 0;
#pragma unroll
        for (int i = 0; i < M; i++) sum += delta[i * DELTA + j];
        update(*b, b + ARRAY, ARRAY, sum * scale, rule);
    }
    if constexpr (layer + 1 < LAYERS) penalties += update_head<layer + 1>(s, scale, rule);
    return penalties;
}
