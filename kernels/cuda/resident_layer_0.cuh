// Layer 0, in one pass over its weights: the update of a step and the product of the next.
//
//     w_jk -= eta/m sum_x delta_j a_k    by the rows of ``step``: BP4, by whatever rule
//     z_j   = sum_k w_jk a_k             of the rows of step + 1, over this block's inputs k
//
// Both need each weight once, so it is read and written once a step. A thread owns the weights
// (k, j .. j + J_TILE) for every GROUPS-th k: it reads, updates, uses and writes each of them with
// nobody to wait for. k runs within, because delta and z of a strip of j are the same for every k:
// they stay in registers, 2 M J_TILE numbers. What a group of threads has found of z lies in
// ``partial``.

// Returns the penalty before the update.
template <bool UPDATE> __device__ inline double layer_0(Shared& s, int step, T scale)
{
    constexpr int STRIP = sizeof(Strip<J_TILE>) / sizeof(T);  // from one to the next in an array
    const int group = threadIdx.x / J_THREADS;
    double penalties = 0;
    if (group >= GROUPS) return 0;
    Rule rule;
    if constexpr (UPDATE) rule = s.rule[BUFFER(step)];
    for (int j = threadIdx.x % J_THREADS * J_TILE; j < PITCH; j += J_THREADS * J_TILE) {
        Strip<J_TILE> delta[M], z[M] = {};
#pragma unroll
        for (int i = 0; UPDATE && i < M; i++) delta[i] = strip<J_TILE>(s.delta + i * PITCH + j);
#pragma unroll(ROOTS ? 1 : 2)  // the roots of two turns at once would not fit the registers
        for (int k = group; k < SLICE; k += GROUPS) {
            T* const here = &s.parameters.w[k][j];
            Strip<J_TILE> w = strip<J_TILE>(here);
            if constexpr (UPDATE) {
                Strip<J_TILE> state[STATES + 1], sum = {};  // an array cannot have no element
#pragma unroll
                for (int n = 0; n < STATES; n++) state[n] = strip<J_TILE>(here + (n + 1) * ARRAY);
                each_in_pairs<M>(s.x[BUFFER(step)][k], [&](int i, T x) {
#pragma unroll
                    for (int q = 0; q < J_TILE; q++) sum.at[q] += delta[i].at[q] * x;
                });
#pragma unroll
                for (int q = 0; q < J_TILE; q++) {
                    penalties += update_weight(
                        w.at[q], state[0].at + q, STRIP, sum.at[q] * scale, rule);
                }
                strip<J_TILE>(here) = w;
#pragma unroll
                for (int n = 0; n < STATES; n++) strip<J_TILE>(here + (n + 1) * ARRAY) = state[n];
            }
            each_in_pairs<M>(s.x[BUFFER(step + 1)][k], [&](int i, T x) {
#pragma unroll
                for (int q = 0; q < J_TILE; q++) z[i].at[q] += w.at[q] * x;
            });
        }
#pragma unroll
        for (int i = 0; i < M; i++) strip<J_TILE>(s.partial[group] + i * PITCH + j) = z[i];
    }
    return penalties;
}
