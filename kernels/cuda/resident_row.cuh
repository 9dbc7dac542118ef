// Row i of a mini-batch, from z of layer 0 through the head and back, by a warp:
//
//     forward   z^l = w^l a^{l-1} + b^l,  a^l = sigma(z^l)
//     BP1       delta^L = grad_a C (x) sigma'(z^L), and the cost
//     BP2       delta^l = (delta^{l+1} w^{l+1}) (x) sigma'(z^l), down to layer 0
//
// Rows need nothing of each other, so a warp takes one all the way with barriers of its own alone.
// Lanes stand for neurons: of the layer above on the way up, of the layer below on the way down, so
// that each adds up a sum by itself; few outputs have several lanes each. z of a hidden layer lies
// where delta takes its place.

template <int layer> __device__ inline T* z_of(Shared& s, int i)
{
    if constexpr (layer == LAYERS - 1) return s.z_out + i * row_pitch(layer);
    return s.delta + rows_before(layer) + i * row_pitch(layer);
}

// z of layer 0 from its parts, with the bias, and a.
__device__ inline void finish_layer_0(Shared& s, int step, int i)
{
#if CLUSTER > 1
    constexpr int PARTS = CLUSTER;
    const auto& part = s.z[BUFFER(step)];
#else
    constexpr int PARTS = GROUPS;
    const auto& part = s.partial;
#endif
    for (int j = threadIdx.x % 32; j < N_0; j += 32) {
        const int at = i * PITCH + j;
        T z = part[0][at];
#pragma unroll
        for (int p = 1; p < PARTS; p++) z += part[p][at];
        z += s.parameters.biases[j];
        z_of<0>(s, i)[j] = z;
        s.a[at] = sigma<0>(z);
    }
    __syncwarp();
}

// The forward equation, of ``layer`` and those above.
template <int layer> __device__ inline void forward(Shared& s, int i)
{
    if constexpr (layer < LAYERS) {
        constexpr int N = size(layer + 1), K = size(layer), P = head_pitch(layer);
        constexpr int LANES = N == 1 ? 32 : N == 2 ? 16 : N <= 4 ? 8 : N <= 8 ? 4 : N <= 16 ? 2 : 1;
        const int lane = threadIdx.x % 32, at = rows_before(layer) + i * row_pitch(layer);
        const T* a_in = s.a + rows_before(layer - 1) + i * row_pitch(layer - 1);
        for (int j = lane / LANES; j < up(N, 32 / LANES); j += 32 / LANES) {
            const T* w_j = s.parameters.head + head_before(layer) + (j < N ? j : 0) * P;
            T z = 0;
            each_in_pairs<K>(a_in, [&](int k, T a) { z += w_j[k] * a; }, lane % LANES, LANES);
#pragma unroll
            for (int distance = LANES / 2; distance; distance /= 2) {
                z += __shfl_xor_sync(0xffffffffu, z, distance);
            }
            if (j < N && lane % LANES == 0) {
                z += s.parameters.biases[biases_before(layer) + j];
                z_of<layer>(s, i)[j] = z;
                s.a[at + j] = sigma<layer>(z);
            }
        }
        __syncwarp();
        forward<layer + 1>(s, i);
    }
}

// BP2, from the layer below the output down to layer 0.
template <int layer> __device__ inline void bp2(Shared& s, int i)
{
    if constexpr (layer >= 0) {
        constexpr int P = head_pitch(layer + 1), N = size(layer + 2);
        const T* delta_out = s.delta + rows_before(layer + 1) + i * row_pitch(layer + 1);
        const T* w = s.parameters.head + head_before(layer + 1);
        for (int k = threadIdx.x % 32; k < size(layer + 1); k += 32) {
            const int at = rows_before(layer) + i * row_pitch(layer) + k;
            T v = 0;
            each_in_pairs<N>(delta_out, [&](int j, T delta) { v += w[j * P + k] * delta; });
            s.delta[at] = v * sigma_prime<layer>(s.delta[at], s.a[at]);
        }
        __syncwarp();
        bp2<layer - 1>(s, i);
    }
}

// The lane's share of the example's cost; when it returns, all of delta is there.
__device__ inline double row(Shared& s, int step, int i, T importance)
{
    constexpr int OUT = LAYERS - 1;
    const int at = rows_before(OUT) + i * row_pitch(OUT);
    finish_layer_0(s, step, i);
    forward<1>(s, i);
    const double cost =
        output_row(z_of<OUT>(s, i), s.a + at, s.y[BUFFER(step)], i, size(LAYERS), importance,
                   s.delta + at);
    __syncwarp();
    bp2<OUT - 1>(s, i);
    return cost;
}

// An example that a smaller last mini-batch lacks has no error.
template <int layer> __device__ inline void no_row(Shared& s, int i)
{
    for (int j = threadIdx.x % 32; j < size(layer + 1); j += 32) {
        s.delta[rows_before(layer) + i * row_pitch(layer) + j] = 0;
    }
    if constexpr (layer + 1 < LAYERS) no_row<layer + 1>(s, i);
}
