// What the blocks of a cluster say to each other (sm_90 and newer).
//
// An exchange without a barrier of the whole cluster: a block sends 16 bytes at a time into another
// block's shared memory, and each arrival counts down the bytes that an mbarrier of the receiver
// still expects. Who waits there sees all that has been sent. (barrier.cluster with release and
// acquire would make the same data visible by a fence over the whole GPU and a flush of the first
// cache, each step.) A cluster of one is a block.

#if CLUSTER == 1
__device__ inline unsigned cluster_rank() { return 0; }
__device__ inline void cluster_sync() { __syncthreads(); }
#else

// The instructions, a line of PTX each. For the CPU they are functions of the same names in
// tests/cuda_on_cpu/cuda.h; tests/test_cuda_ptx.py says what each of them rests on.
#ifndef GPUBP_CUDA_ON_CPU
__device__ inline unsigned cluster_ctarank()
{
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ inline unsigned mapa(unsigned address, unsigned rank)
{
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}
__device__ inline void barrier_cluster()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;"
                 ::: "memory");
}
__device__ inline void mbarrier_init_release(unsigned barrier, unsigned arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n\tfence.mbarrier_init.release.cluster;"
                 :: "r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void mbarrier_arrive_expect_tx(unsigned barrier, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(barrier), "r"(bytes) : "memory");
}
#if __CUDACC_VER_MAJOR__ >= 13
__device__ inline unsigned mbarrier_try_wait_relaxed(unsigned barrier, unsigned parity)
{
    unsigned done;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    return done;
}
__device__ inline void fence_acquire_cluster()
{
    asm volatile("fence.acquire.sync_restrict::shared::cluster.cluster;" ::: "memory");
}
#endif
__device__ inline unsigned mbarrier_try_wait_acquire(unsigned barrier, unsigned parity)
{
    unsigned done;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    return done;
}
__device__ inline void st_async(unsigned to, uint4 v, unsigned barrier)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                 "[%0], {%1, %2, %3, %4}, [%5];"
                 :: "r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier) : "memory");
}
#endif

__device__ inline unsigned shared_address(const void* p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

__device__ inline unsigned cluster_rank() { return cluster_ctarank(); }

__device__ inline void cluster_sync() { barrier_cluster(); }

// A barrier of ``arrivals`` threads a phase, told to the other blocks by the next cluster_sync.
__device__ inline void mbarrier_init(unsigned long long* barrier, unsigned arrivals)
{
    mbarrier_init_release(shared_address(barrier), arrivals);
}

// This thread arrives, and the phase waits for that many bytes, too.
__device__ inline void mbarrier_expect(unsigned long long* barrier, unsigned bytes)
{
    mbarrier_arrive_expect_tx(shared_address(barrier), bytes);
}

// Until the phase of this parity (0, 1, 0, ... as they come) is complete. The fence orders shared
// memory alone, which is all that is sent; acquiring in the wait itself would empty the first cache
// each time (CCTL.IVALL), and is for compilers that do not know the fence.
__device__ inline void mbarrier_wait(unsigned long long* barrier, unsigned parity)
{
    const unsigned address = shared_address(barrier);
#if __CUDACC_VER_MAJOR__ >= 13
    while (!mbarrier_try_wait_relaxed(address, parity)) {
    }
    fence_acquire_cluster();
#else
    while (!mbarrier_try_wait_acquire(address, parity)) {
    }
#endif
}

// 16 bytes to where ``to`` lies in that block, counted by its ``barrier``.
__device__ inline void send(uint4 v, void* to, unsigned long long* barrier, unsigned rank)
{
    const unsigned count_at = shared_address(barrier);
    st_async(mapa(shared_address(to), rank), v, mapa(count_at, rank));
}
#endif
