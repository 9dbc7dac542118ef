// A barrier of all blocks of a grid that are on the chip together (a cooperative launch).
//
// ``arrived`` counts the blocks that have come to any barrier since it was zero; ``goal``, of each
// block, is where it stands when all have come to this one. The fences let what was written before
// the barrier be read after it, by whichever block: the second also empties the multiprocessor's
// own cache of what it had read before. The counter is an integer, so the order of arrivals leaves
// no trace in the results.

// What this thread, and those it has met, wrote before is seen after it by whoever sees what it
// writes next; and the other way round. __threadfence would also put all fences in one order, at a
// higher price.
__device__ inline void fence()
{
#ifdef GPUBP_CUDA_ON_CPU
    __threadfence();
#else
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}

__device__ inline void wait_until(const unsigned* counter, unsigned value)
{
#ifdef GPUBP_CUDA_ON_CPU
    gpu_wait_until(counter, value);
#else
    while (int(*(const volatile unsigned*)counter - value) < 0) {
    }
#endif
}

__device__ inline void grid_barrier(unsigned* arrived, unsigned& goal)
{
    goal += gridDim.x;
    __syncthreads();
    if (threadIdx.x == 0) {
#ifndef MUTANT_GRID_BARRIER_WITHOUT_FENCE
        fence();
#endif
        atomicAdd(arrived, 1u);
        wait_until(arrived, goal);
#ifndef MUTANT_GRID_BARRIER_WITHOUT_FENCE_BEHIND_IT
        fence();
#endif
    }
    __syncthreads();
}
