// hadamard_sigma_prime: v (x) sigma'(z), of BP1 with v = grad_a C and of BP2 with v = delta w.
//
//     out = v (x) sigma'(z, a), four arrays of ``size`` numbers
//
// Plain twin: v * sigma_prime(z, a), a pass and a temporary array for each operation of the
// formula. In training it stands in the epilogue of bp2; alone it serves backprop.py.
//
// Launch: a thread an element, as memory likes it. Cost: three reads and one write an element.

#include "common.cuh"
#include "formulas.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) hadamard_sigma_prime(
    long long size, const T* v, const T* z, const T* a, T* out)
{
    const long long e = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (e < size) out[e] = v[e] * sigma_prime(z[e], a[e]);
}
