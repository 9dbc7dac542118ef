// clipped_update: the update rule by a gradient that is made no longer than clip_norm.
//
//     clip = min(1, clip_norm / (sqrt(sum of squares) + 1e-6)),  then the rule by clip g
//
// Plain twin: the rule's passes over all parameters. That needs the whole gradient first, which is
// why it lies in memory here and does not in outer_sum's update. Every block adds up the same
// CLIP_BLOCKS sums in the same order, which costs less than a launch of its own would.
//
// Launch: as squares.cu, after it.
//
// Cost: gradient read, parameters and state read and written once.

#include "common.cuh"
#include "update.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) clipped_update(
    int m, long long weights, long long parameters, T* flat, T* state, const T* gradient,
    const T* numbers, const long long* done, int step, const double* squares)
{
    Rule rule = rule_of(numbers, *done + step);
    double square = 0;
    for (int block = 0; block < CLIP_BLOCKS; block++) square += squares[block];
    const double clip = double(rule.clip_) / (sqrt(square) + CLIP_EPSILON);
    // A gradient that is no number stays none, and training stops at it.
    rule.clip_ = clip > 1 ? T(1) : T(clip);
    for (long long i = (long long)blockIdx.x * BLOCK + threadIdx.x; i < parameters;
         i += (long long)gridDim.x * BLOCK) {
        const T g = gradient[i] / T(m);
        if (i < weights) {
            update_penalised(flat[i], state + i, parameters, g, rule);
        } else {
            update(flat[i], state + i, parameters, g, rule);
        }
    }
}
