// BP1 and the cost of one example, by the 32 lanes of a warp: delta^L = grad_a C (x) sigma'(z^L).
//
// The formulas of this pair of activation and cost are compiled in (a - y where it simplifies).
// With SOFTMAX, delta = a sum_j y - y and C = -sum_j y log a, with log a = z - max z - log sum exp;
// the row's sums are butterflies within the warp. Returns the lane's share of C. Where examples are
// WEIGHTED, delta and C are multiplied by the example's importance.

// Of the example at this place of the order; without weights nothing is read.
__device__ inline T importance_of(const T* importance, long long at)
{
    return WEIGHTED ? importance[at] : T(1);
}
__device__ inline T weighed(T importance, T value) { return WEIGHTED ? importance * value : value; }

template <class Y>
__device__ inline double output_row(
    const T* z_i, const T* a_i, const Y* y, long long row, int n, T importance, T* delta_i)
{
    const int lane = threadIdx.x % 32;
    double sum = 0;
#if SOFTMAX
    T top = z_i[lane < n ? lane : 0], total = 0, y_total = 0;
    for (int j = lane; j < n; j += 32) top = maximum(top, z_i[j]);
    top = warp_maximum(top);
    for (int j = lane; j < n; j += 32) {
        total += exp(z_i[j] - top);
        y_total += target(y, row, j, n);
    }
    total = warp_sum(total);
    y_total = warp_sum(y_total);
    for (int j = lane; j < n; j += 32) {
        const T y_j = target(y, row, j, n), shifted = z_i[j] - top;
        delta_i[j] = weighed(importance, exp(shifted) / total * y_total - y_j);
        sum -= y_j == T(0) ? T(0) : weighed(importance, y_j * (shifted - log(total)));  // 0 log 0
    }
#else
    for (int j = lane; j < n; j += 32) {
        const T y_j = target(y, row, j, n);
        delta_i[j] = weighed(importance, output_delta(z_i[j], a_i[j], y_j));
        sum += weighed(importance, output_cost(z_i[j], a_i[j], y_j));
    }
#endif
    return sum;
}
