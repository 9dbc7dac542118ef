// resident: one launch trains a whole piece of an epoch; the weights stay in shared memory.
//
//     for each mini-batch of M examples:  forward, BP1, BP2, BP3, BP4, update
//
// Plain twin: the launches of minibatch.py, 3 a layer and mini-batch, which read every weight from
// memory and write it back. At [784, 30, 10] with 10 examples the arithmetic of a step is 0.3
// microseconds of eight multiprocessors and a launch costs several; what is left when launches and
// memory are gone is the chain of phases that wait for each other, so this kernel has few of them.
//
// Layers are counted as in net.weights: layer 0 has w^2 (n_2, n_1), by far the largest, the layers
// from 1 on are the head.
//
// * Layer 0 is split over the CLUSTER blocks of a cluster by input: each block owns SLICE of the
//   n_1 inputs with their weights, and trains on its slice of each row. By BP4 it needs nothing of
//   the others for that; by the forward equation z is the sum of what the blocks find, so once a
//   step each block sends its part of z to all of them. With CLUSTER = 1 the same text trains on one
//   block, without the exchange.
// * Each block has the whole head and trains it on the same numbers in the same order: the copies
//   stay equal to the last bit, and nothing has to be sent back.
// * What the update rule keeps beside each parameter lies where the parameter does, array behind
//   array, and is read, updated and written with it.
// * Many networks of one family train side by side: a cluster takes the row of a table.
//
// A step, between the barriers of a block, and the file that has it:
//
//   layer 0   the update of step s and the forward product of step s + 1 in one pass over the
//             weights, each of which belongs to one thread: resident_layer_0.cuh.
//   exchange  the sum over the groups of threads, sent to every block: resident_exchange.cuh. In
//             its shadow: the update of the head by the step before (resident_update.cuh), rows and
//             the rule's numbers fetched a step ago to shared memory, and the next ones fetched
//             from memory (resident_fetch.cuh).
//   rows      a warp an example, without another barrier: bias and sigma of layer 0, the head's
//             forward pass, BP1, BP2 down to layer 0: resident_row.cuh.
//
// That is three barriers of the block and one wait for the cluster. Two buffers that alternate
// (inputs, targets, indices, the rule's numbers, arrivals) let writers be a step ahead of readers:
// the head is updated with the numbers of the step before while those of this one arrive.
//
// What a step of [784, 30, 10] with 10 examples should cost, in cycles, on a cluster of 8 blocks of
// 384 threads: 6 groups of 16 x 2 neurons, 17 turns of k (a count of instructions in sm_90 machine
// code and of reads, with latencies as commonly told: not measured). capacity.py counts so for any
// shape.
//
//   layer 0   a turn is 40 products for both passes, 10 + 2 reads, 2 writes, 6 others: 60
//             instructions; 17 turns on each of 3 schedulers: 1,020; its first reads: 100
//   groups    6 parts of 300 numbers written and read: 170
//   exchange  7 x 1.2 KB out at about 14 bytes a cycle: 600; on its way 250
//   rows      a warp each: 8 parts of z, sigma, 8 + 5 turns of the head's products, BP1, 3
//             __syncwarp: 580
//   barriers  3 x 30
//
// 2,800 cycles, 1.5 microseconds at 1.9 GHz; 50 KiB of shared memory, 154 registers. One block
// alone has 8 times the inputs and no exchange: 7,000 cycles, 3.7 microseconds, 185 KiB, 250
// registers. That is plain SGD: under Adam layer 0 has two more arrays to read and to write, and a
// root and two quotients for each weight.
// In the loop there is neither a fence of the GPU nor a flush of a cache: STAS and SYNCS only.
//
// Not tried: weights and rows in registers from one step to the next (it would save half of the
// reads of layer 0); an exchange in two hops, each block adding its share (a quarter of the bytes,
// twice the latency); rows read four at a time.

#include "common.cuh"
#include "cluster.cuh"

// The formulas of each layer: sigma<0>(z) and so on.
template <int layer> __device__ inline T sigma(T z);
template <int layer> __device__ inline T sigma_prime(T z, T a);

#include "formulas.cuh"
#include "output_row.cuh"
#include "update.cuh"
#include "resident_memory.cuh"
#include "resident_fetch.cuh"
#include "resident_layer_0.cuh"
#include "resident_exchange.cuh"
#include "resident_update.cuh"
#include "resident_row.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
resident(const Network* networks, const Input* x, const Target* y, long long begin, long long end)
{
    extern __shared__ double2 memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    const Network& network = networks[blockIdx.x / CLUSTER];
    const long long* const order = network.order;
    const int t = threadIdx.x, warp = t / 32;
    const unsigned rank = cluster_rank();
    const int first_input = rank * SLICE;
    if (end > network.examples) end = network.examples;
    if (begin >= end) return;  // all blocks of the cluster
    const int steps = (end - begin + M - 1) / M;

    load(s.parameters, network.parameters, first_input);
    each_state(s, network.state, [&](Trained& here, T* there) { load(here, there, first_input); });
    for (int e = t; e < rows_before(LAYERS); e += BLOCK) s.a[e] = s.delta[e] = 0;
#if CLUSTER > 1
    if (t < 2) mbarrier_init(s.arrived + t, 1);
#endif
    // Until step 0 begins: its rows are there, those of step 1 under way, the indices of step 2
    // there, those of step 3 under way. An example that is not there has the index -1.
    Coming coming;
    const auto fetch_indices = [&](int step) {
        coming.fetch_indices(order, begin + (long long)step * M, end);
    };
    for (int step = 0; step < 2; step++) {
        fetch_indices(step);
        coming.deposit_indices(s, step);
    }
    fetch_indices(2);
    __syncthreads();  // the indices of steps 0 and 1 are there
    coming.fetch(s, 0, x, y, first_input);
    coming.deposit(s, 0);
    coming.fetch(s, 1, x, y, first_input);
    cluster_sync();  // the mbarriers of the others are there, too
    coming.deposit_indices(s, 2);
    fetch_indices(3);
    const T* const numbers = network.numbers + begin / M * NUMBERS;
    coming.fetch_rule(numbers);

    const int last_m = end - begin - (long long)(steps - 1) * M;
    const auto m_of = [&](int step) { return step < steps - 1 ? M : last_m; };
    const T scale = T(1) / T(M), last_scale = T(1) / T(last_m);
    const auto scale_of = [&](int step) { return step < steps - 1 ? scale : last_scale; };
    // A step's cost is known when its head has been updated, in the step after it. Each thread has a
    // part of it, and a barrier that is there anyway stands between the halves of their sum.
    __shared__ BlockSum<BLOCK> told;
    double* const costs = network.cost + begin / M * COSTS + (PENALTY ? rank : 0);
    double cost = 0;
    layer_0<false>(s, -1, scale);

    for (int step = 0;; step++) {
        __syncthreads();  // all parts of z are there, and nobody reads x of the step before
#if CLUSTER > 1
        if (step < steps) exchange(s, step, rank);
#endif
        if (step > 0) {
            const Rule rule = s.rule[BUFFER(step - 1)];
            const double penalty = update_head<0>(s, scale_of(step - 1), rule);
            if (rank == 0) cost += m_of(step - 1) * penalty;
            if (PENALTY || rank == 0) told.put(cost);
            cost = 0;
        }
        if (step == steps) break;
        coming.deposit_rule(s, step);
        if (step + 1 < steps) coming.fetch_rule(numbers + (step + 1) * NUMBERS);
        coming.deposit(s, step + 1);
        coming.fetch(s, step + 2, x, y, first_input);
        coming.deposit_indices(s, step + 3);
        fetch_indices(step + 4);
        __syncthreads();  // the head is updated; targets and indices of the next step are there
        if (t == BLOCK - 1 && step > 0 && (PENALTY || rank == 0)) {
            costs[(step - 1) * COSTS] = told.total();
        }
#if CLUSTER > 1
        mbarrier_wait(s.arrived + BUFFER(step), step / 2 & 1);
#endif
        for (int i = warp; i < M; i += WARPS) {
            if (i < m_of(step)) {
                // Asked for here and needed at the output: on its way meanwhile.
                const long long place = begin + (long long)step * M + i;
                const T counted = importance_of(network.importance, place);
                const double own = row(s, step, i, counted);
                if (rank == 0) cost += own;
            } else {
                no_row<0>(s, i);
            }
        }
        __syncthreads();  // all of delta is there
        cost += m_of(step) * layer_0<true>(s, step, scale_of(step));
    }

    __syncthreads();  // the last update is done
    store(s.parameters, network.parameters, first_input);
    each_state(s, network.state, [&](Trained& here, T* there) { store(here, there, first_input); });
    // A block may end here: all that was sent to it has come, and it sends nothing any more.
    if (t == 0 && (PENALTY || rank == 0)) costs[(steps - 1) * COSTS] = told.total();
}
