// What every kernel shares: the names that formulas use, inputs as numbers, sums over a block.
//
// T, the precision of the network, and the kernel's constants stand before this text; see
// source.py. A product is contracted with a following sum to one rounding (fma), as the compiler
// does by itself.

// The names of gpubp/expression.py. C's fmin and fmax drop a NaN; these let it spread, so that it
// reaches the cost and training stops.
__device__ inline T absolute(T u) { return u < T(0) ? -u : u; }
__device__ inline T minimum(T u, T v) { return u < v || u != u ? u : v; }
__device__ inline T maximum(T u, T v) { return u > v || u != u ? u : v; }
__device__ inline T power(T u, T x) { return pow(u, x); }
__device__ inline T ipow(T u, int n)
{
    T result = u;
    for (int factor = 1; factor < n; factor++) result *= u;
    return result;
}

// a^1: numbers as they are, bytes as x/255. The quotient of the rounded 1/255 is off by an ulp for
// some bytes; one Newton step gives the correctly rounded quotient of all 256, without dividing.
__device__ inline T as_input(T x) { return x; }
__device__ inline T as_input(unsigned char x)
{
    const T byte = T(x), inverse = T(1) / T(255), quotient = byte * inverse;
    return fma(fma(-quotient, T(255), byte), inverse, quotient);
}

// y_j of one example: unit vectors from labels, targets as they are.
__device__ inline T target(const long long* label, long long row, int j, int)
{
    return T(label[row] == j);
}
__device__ inline T target(const T* y, long long row, int j, int n) { return y[row * n + j]; }

// Sums and maxima over the 32 lanes of a warp, the same bits in each lane: a butterfly adds the
// same two numbers on either side.
template <class S> __device__ inline S warp_sum(S value)
{
    for (int distance = 16; distance; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}
__device__ inline T warp_maximum(T value)
{
    for (int distance = 16; distance; distance /= 2) {
        value = maximum(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

// The sum over a block of SIZE threads, always in the same order, so that a run repeats bit for bit:
// all threads put, a barrier of the block follows, and whoever wants the total asks for it before
// the next put.
template <int SIZE> struct BlockSum {
    double by_warp[SIZE / 32];

    __device__ void put(double value)
    {
        value = warp_sum(value);
        if (threadIdx.x % 32 == 0) by_warp[threadIdx.x / 32] = value;
    }
    __device__ double total() const
    {
        double sum = by_warp[0];
        for (int warp = 1; warp < SIZE / 32; warp++) sum += by_warp[warp];
        return sum;
    }
};

// The same at once, valid in thread 0; a second sum of the same kernel has another WHICH.
template <int SIZE, int WHICH = 0> __device__ inline double block_sum(double value)
{
    __shared__ BlockSum<SIZE> sum;
    sum.put(value);
    __syncthreads();
    return threadIdx.x == 0 ? sum.total() : 0;
}
