// Copies from memory to shared memory that pass no register: cp.async, 16 bytes a thread.
//
// ``copy_16`` begins a copy, of zeros where ``there`` is false; ``commit_copies`` closes a group of
// them; ``wait_for_copies<LEFT>`` waits until all but the newest LEFT groups of this thread have
// arrived. The thread that waited may read them, others behind a barrier after it. Until then the
// place belongs to the copy: nobody may read or write it.
//
// cp.async.cg goes by the second-level cache alone: what is copied was written by earlier launches,
// or by nobody. Below sm_80 the copy is made at once, through a register.

#ifndef GPUBP_CUDA_ON_CPU
__device__ inline void cp_async_16(unsigned to, const void* from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void cp_async_commit_group()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int LEFT> __device__ inline void cp_async_wait_group()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}
#endif

__device__ inline void copy_16(void* to, const void* from, bool there)
{
#if __CUDA_ARCH__ >= 800
    cp_async_16((unsigned)__cvta_generic_to_shared(to), from, there ? 16 : 0);
#else
    *static_cast<uint4*>(to) = there ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}
__device__ inline void commit_copies()
{
#if __CUDA_ARCH__ >= 800
    cp_async_commit_group();
#endif
}
template <int LEFT> __device__ inline void wait_for_copies()
{
#if __CUDA_ARCH__ >= 800
    cp_async_wait_group<LEFT>();
#endif
}
