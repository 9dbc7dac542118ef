// What the blocks of a cluster say to each other (sm_90 and newer), a line of PTX each.
//
// An exchange without a barrier of the whole cluster: a block sends 16 bytes at a time into another
// block's shared memory, and each arrival counts down the bytes that an mbarrier of the receiver
// still expects. Who waits there sees all that has been sent. (barrier.cluster with release and
// acquire would make the same data visible by a fence over the whole GPU and a flush of the first
// cache, each step.) A cluster of one is a block. tests/cuda_on_cpu/cuda.h has these functions for
// the CPU.

#ifndef GPUBP_CUDA_ON_CPU
#if CLUSTER == 1
__device__ inline unsigned cluster_rank() { return 0; }
__device__ inline void cluster_sync() { __syncthreads(); }
#else
__device__ inline unsigned shared_address(const void* p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

// The same place in the shared memory of another block of the cluster.
__device__ inline unsigned address_in_block(const void* p, unsigned rank)
{
    unsigned address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
    return address;
}

__device__ inline unsigned cluster_rank()
{
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ inline void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;"
                 ::: "memory");
}

// A barrier of ``arrivals`` threads a phase, told to the other blocks by the next cluster_sync.
__device__ inline void mbarrier_init(unsigned long long* barrier, unsigned arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n\tfence.mbarrier_init.release.cluster;"
                 :: "r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// This thread arrives, and the phase waits for that many bytes, too.
__device__ inline void mbarrier_expect(unsigned long long* barrier, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}

// Until the phase of this parity (0, 1, 0, ... as they come) is complete. The fence orders shared
// memory alone, which is all that is sent; acquiring in the wait itself would empty the first cache
// each time (CCTL.IVALL), and is for compilers that do not know the fence.
#if __CUDACC_VER_MAJOR__ >= 13
#define TRY_WAIT "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64"
#else
#define TRY_WAIT "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64"
#endif
__device__ inline void mbarrier_wait(unsigned long long* barrier, unsigned parity)
{
    unsigned done;
    do {
        asm volatile("{\n\t.reg .pred p;\n\t" TRY_WAIT " p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    } while (!done);
#if __CUDACC_VER_MAJOR__ >= 13
    asm volatile("fence.acquire.sync_restrict::shared::cluster.cluster;" ::: "memory");
#endif
}

// 16 bytes to where ``to`` lies in that block, counted by its ``barrier``.
__device__ inline void send(uint4 v, void* to, unsigned long long* barrier, unsigned rank)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                 "[%0], {%1, %2, %3, %4}, [%5];"
                 :: "r"(address_in_block(to, rank)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w),
                    "r"(address_in_block(barrier, rank)) : "memory");
}
#endif
#endif
