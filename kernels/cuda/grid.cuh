// A barrier of all blocks of a grid that are on the chip together (a cooperative launch).
//
// ``arrived`` counts the blocks that have come to any barrier since it was zero; ``goal``, of each
// block, is where it stands when all have come to this one. The fences let what was written before
// the barrier be read after it, by whichever block: the second also empties the multiprocessor's
// own cache of what it had read before. The counter is an integer, so the order of arrivals leaves
// no trace in the results.

// What this thread, and those it has met, wrote before is seen after it by whoever sees what it
// writes next; and the other way round. __threadfence would also put all fences in one order, at a
// higher price. For the CPU these two are functions of the same names in tests/cuda_on_cpu/cuda.h.
#ifndef GPUBP_CUDA_ON_CPU
__device__ inline void fence_acq_rel_gpu()
{
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}
// What others raise, read from memory each time. (On the CPU the others have their turns meanwhile.)
__device__ inline unsigned read_anew(const unsigned* counter)
{
    return *(const volatile unsigned*)counter;
}
#endif

__device__ inline void wait_until(const unsigned* counter, unsigned value)
{
    while (int(read_anew(counter) - value) < 0) {
    }
}

__device__ inline void grid_barrier(unsigned* arrived, unsigned& goal)
{
    goal += gridDim.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        fence_acq_rel_gpu();
        atomicAdd(arrived, 1u);
        wait_until(arrived, goal);
        fence_acq_rel_gpu();
    }
    __syncthreads();
}
