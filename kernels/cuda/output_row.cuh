// BP1 and the cost of one example, by a warp: delta^L = grad_a C (x) sigma'(z^L).
//
// The lane's part of C is returned. With SOFTMAX, delta = a sum_j y - y and C = -sum_j y log a,
// with log a = z - max z - log sum exp. ``row`` is the example's in y.

__device__ inline double output_row(
    int lane, int n, const T* z, const T* a, const Target* y, long long row, T* delta)
{
    double sum = 0;
#if SOFTMAX
    T top = z[lane < n ? lane : 0], total = 0, y_total = 0;
    for (int j = lane; j < n; j += 32) top = maximum(top, z[j]);
    top = warp_maximum(top);
    for (int j = lane; j < n; j += 32) {
        total += exp(z[j] - top);
        y_total += target(y, row, j, n);
    }
    total = warp_sum(total);
    y_total = warp_sum(y_total);
    for (int j = lane; j < n; j += 32) {
        const T y_j = target(y, row, j, n), shifted = z[j] - top;
        delta[j] = exp(shifted) / total * y_total - y_j;
        sum -= y_j == T(0) ? T(0) : y_j * (shifted - log(total));  // 0 log 0 = 0
    }
#else
    for (int j = lane; j < n; j += 32) {
        const T y_j = target(y, row, j, n);
        delta[j] = output_delta(z[j], a[j], y_j);
        sum += output_cost(z[j], a[j], y_j);
    }
#endif
    return sum;
}
