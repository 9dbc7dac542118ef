// score: the cost of m examples, and how many are classified right.
//
//     cost[block] += sum over its rows of C;  right[block] += rows whose class is that of y
//
// Plain twin: example_cost, argmax of a and of y, a comparison and two sums, with (m, n) arrays
// between. The class of a row is its largest output (of equals the first, as argmax), of one output
// whether a > 0.5. Softmax's a is worked out from z as bp1 does, rounding and ties included.
//
// Launch and sums as in bp1.cu: a warp a row, a sum a block, no atomics. Here row i of y is row i.

#include "common.cuh"
#include "formulas.cuh"

// The warp's largest value and its index: NaN counts as largest, of equals the first, as in NumPy.
struct Largest {
    T value;
    int index;
    __device__ inline void see(T v, int j)
    {
        const bool nan = v != v, was_nan = value != value;
        const bool larger = nan ? !was_nan : v > value;
        const bool equal = nan ? was_nan : v == value;
        if (index < 0 || larger || (equal && j < index)) {
            value = v;
            index = j;
        }
    }
    __device__ inline int over_warp()
    {
        for (int distance = 16; distance; distance /= 2) {
            const T v = __shfl_xor_sync(0xffffffffu, value, distance);
            const int j = __shfl_xor_sync(0xffffffffu, index, distance);
            if (j >= 0) see(v, j);
        }
        return index;
    }
};

__device__ inline long long class_of(const long long* label, long long row, int, int)
{
    return label[row];
}
__device__ inline long long class_of(const T* y, long long row, int n, int lane)
{
    if (n == 1) return y[row] > T(0.5);
    Largest largest = {T(0), -1};
    for (int j = lane; j < n; j += 32) largest.see(y[row * n + j], j);
    return largest.over_warp();
}

extern "C" __global__ void __launch_bounds__(BLOCK) score(
    int m, int n, const T* z, const T* a, const Target* y, double* cost, double* right)
{
    const int lane = threadIdx.x % 32, i = blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
    double sum = 0, hit = 0;
    if (i < m) {
        const T* z_i = z + (long long)i * N;
        long long found;
#if SOFTMAX
        T top = z_i[lane < N ? lane : 0], total = 0;
        for (int j = lane; j < N; j += 32) top = maximum(top, z_i[j]);
        top = warp_maximum(top);
        for (int j = lane; j < N; j += 32) total += exp(z_i[j] - top);
        total = warp_sum(total);
        Largest largest = {T(0), -1};
        for (int j = lane; j < N; j += 32) {
            const T y_j = target(y, i, j, N), shifted = z_i[j] - top;
            sum -= y_j == T(0) ? T(0) : y_j * (shifted - log(total));
            largest.see(exp(shifted) / total, j);
        }
        found = N == 1 ? 1 : largest.over_warp();
#else
        const T* a_i = a + (long long)i * N;
        Largest largest = {T(0), -1};
        for (int j = lane; j < N; j += 32) {
            sum += output_cost(z_i[j], a_i[j], target(y, i, j, N));
            largest.see(a_i[j], j);
        }
        found = N == 1 ? (long long)(a_i[0] > T(0.5)) : largest.over_warp();
#endif
        const long long right_class = class_of(y, i, N, lane);
        if (lane == 0) hit = found == right_class;
    }
    sum = block_sum<BLOCK, 0>(sum);
    hit = block_sum<BLOCK, 1>(hit);
    if (threadIdx.x == 0) {
        cost[blockIdx.x] += sum;
        right[blockIdx.x] += hit;
    }
}
