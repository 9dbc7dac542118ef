// z of layer 0 is the sum of what the blocks of a cluster have found, each over its own inputs:
//
//     z_ij = sum_block sum_group partial_ij
//
// Each block adds up its groups, in their order, and sends the sum to all: one way, and every block
// adds the same parts in the same order (resident_row.cuh), so that z has the same bits in each.
// The bytes are counted at the receiver, which waits for them at an mbarrier and for nothing else.
// With CLUSTER = 1 there is no exchange: the rows add up the groups themselves.

#if CLUSTER > 1
__device__ inline void exchange(Shared& s, int step, unsigned rank)
{
    typedef Strip<16 / sizeof(T)> Packet;
    constexpr int PACKET = 16 / sizeof(T), BYTES = CLUSTER * PART * sizeof(T);
    if (threadIdx.x == 0) mbarrier_expect(s.arrived + BUFFER(step), BYTES);
    for (int e = threadIdx.x * PACKET; e < PART; e += BLOCK * PACKET) {
        Packet z = strip<PACKET>(s.partial[0] + e);
#pragma unroll
        for (int group = 1; group < GROUPS; group++) {
            const Packet more = strip<PACKET>(s.partial[group] + e);
#pragma unroll
            for (int q = 0; q < PACKET; q++) z.at[q] += more.at[q];
        }
        uint4 bits;
        memcpy(&bits, &z, sizeof bits);
#pragma unroll
        for (int other = 0; other < CLUSTER; other++) {  // not all blocks to the same one at once
            send(bits, s.z[BUFFER(step)][rank] + e, s.arrived + BUFFER(step),
                 (rank + other) % CLUSTER);
        }
    }
}
#endif
