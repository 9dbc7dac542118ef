// squares: the length of the whole gradient, for a rule that clips it, and the penalty.
//
//     squares[block] = sum of g^2 over the block's parameters,  g = sum / m (+ the penalty's slope)
//     penalty[block] = m (1/2 l2 w^2 + l1 |w|) over its weights, of the weights before their update
//
// Plain twin: np.sum(g * g). The sums over the mini-batch lie in ``gradient``, as outer_sum without
// UPDATE leaves them, laid out like the parameters: weights, then biases, which have no penalty.
//
// Launch: CLIP_BLOCKS blocks, which stride over the parameters. Each writes its sums, in double,
// to a place of its own, and clipped_update adds them up in order: no atomics, the same bits each time.
//
// Cost: gradient and parameters read once, 8 bytes a parameter in float32; not timed.

#include "common.cuh"
#include "update.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) squares(
    int m, long long weights, long long parameters, const T* flat, const T* gradient,
    const T* numbers, const long long* done, int step, double* squares, double* penalty)
{
    const Rule rule = rule_of(numbers, *done + step);
    double square = 0, own = 0;
    for (long long i = (long long)blockIdx.x * BLOCK + threadIdx.x; i < parameters;
         i += (long long)gridDim.x * BLOCK) {
        T g = gradient[i] / T(m);
        if (i < weights) {
            own += penalty_of(flat[i], rule);
            g = slope_penalised(flat[i], g, rule);
        }
        square += double(g) * double(g);
    }
    square = block_sum<BLOCK, 0>(square);
    if (threadIdx.x == 0) squares[blockIdx.x] = square;
#if PENALTY
    own = block_sum<BLOCK, 1>(own);
    if (threadIdx.x == 0) penalty[blockIdx.x] = m * own;
#endif
}
