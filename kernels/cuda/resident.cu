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
// A step, between the barriers of a block:
//
//   layer 0   the update of step s and the forward product of step s + 1 in one pass over the
//             weights: a thread owns the weights (k, j .. j + J_TILE) for every GROUPS-th k, so
//             that it reads, updates, uses and writes each of them with nobody to wait for. The
//             parts of z that a group of threads has found lie in ``partial``.
//   exchange  the sum over the groups, sent to every block. In its shadow: the update of the head
//             by the step before, rows and the rule's numbers fetched a step ago to shared memory,
//             and the next ones fetched from memory.
//   rows      a warp an example, without another barrier: bias and sigma of layer 0, the head's
//             forward pass, BP1, BP2 down to layer 0. Lanes stand for neurons.
//
// That is three barriers of the block and one wait for the cluster. Two buffers that alternate
// (inputs, targets, indices, the rule's numbers, arrivals) let writers be a step ahead of readers:
// the head is updated with the numbers of the step before while those of this one arrive.
//
// Shared memory: reads of layer 0 are pairs of examples, the same for all lanes of a group, and
// J_TILE neighbouring weights; the head's rows are an odd number of words apart, so that lanes may
// run along either index. What Shared holds is added up in capacity.py, too, and must agree.
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

// Sizes, and where things lie

constexpr int WARPS = BLOCK / 32;

#define BUFFER(step) ((step) & 1)

__device__ constexpr int size(int layer)  // inputs of a layer; its outputs are size(layer + 1)
{
    constexpr int n[] = {SIZES};
    return n[layer];
}
__device__ constexpr int up(int n, int unit) { return (n + unit - 1) / unit * unit; }

constexpr int N_IN = size(0), N_0 = size(1);
constexpr int PITCH = up(N_0, J_TILE < 2 ? 2 : J_TILE);  // of a row over layer 0

// a^l and delta^l of the mini-batch, layer by layer, in rows of an even number
__device__ constexpr int row_pitch(int layer)
{
    return layer == 0 ? PITCH : up(size(layer + 1), 2);
}
__device__ constexpr int rows_before(int layer)
{
    return layer == 0 ? 0 : rows_before(layer - 1) + M * row_pitch(layer - 1);
}
// the weights of layers 1, 2, ..., in rows of an odd number
__device__ constexpr int head_pitch(int layer) { return size(layer) | 1; }
__device__ constexpr int head_before(int layer)
{
    return layer <= 1 ? 0 : head_before(layer - 1) + size(layer) * head_pitch(layer - 1);
}
__device__ constexpr int biases_before(int layer)
{
    return layer == 0 ? 0 : biases_before(layer - 1) + size(layer);
}
__device__ constexpr int weights_before(int layer)  // among all parameters, in memory
{
    return layer == 0 ? 0 : weights_before(layer - 1) + size(layer - 1) * size(layer);
}
constexpr int HEAD = head_before(LAYERS), BIASES = biases_before(LAYERS);
constexpr int PART = up(M * PITCH, 4);  // z of layer 0, or a part of it, in whole packets

// WIDTH neighbours, read and written at once.
template <int WIDTH> struct alignas(WIDTH * sizeof(T) < 16 ? WIDTH * sizeof(T) : 16) Strip {
    T at[WIDTH];
};
template <int WIDTH> __device__ inline Strip<WIDTH>& strip(T* p)
{
    return *reinterpret_cast<Strip<WIDTH>*>(p);
}
template <int WIDTH> __device__ inline const Strip<WIDTH>& strip(const T* p)
{
    return *reinterpret_cast<const Strip<WIDTH>*>(p);
}

struct Trained {  // what this block has of the parameters; of each array of the state as much again
    alignas(16) T w[SLICE][PITCH];  // layer 0, turned over: k, j
    alignas(16) T head[HEAD ? HEAD : 1];
    alignas(16) T biases[BIASES];
};

struct Shared {
    Trained parameters;
#if STATES
    Trained states[STATES];
#endif
    alignas(16) T x[2][SLICE][up(M, 2)];      // k, i
    alignas(16) T a[rows_before(LAYERS)];
    alignas(16) T delta[rows_before(LAYERS)];  // of a hidden layer z, until delta takes its place
    alignas(16) T z_out[M * row_pitch(LAYERS - 1)];
    alignas(16) T partial[GROUPS][PART];
#if CLUSTER > 1
    alignas(16) T z[2][CLUSTER][PART];  // from each block
    alignas(16) unsigned long long arrived[2];
#endif
    alignas(16) Target y[2][M * Y_WIDTH];
    alignas(16) long long row[2][M];
    alignas(16) Rule rule[2];
};
static_assert(sizeof(Shared) == SHARED_BYTES, "capacity.py adds up what Shared holds");

constexpr int COSTS = PENALTY ? CLUSTER : 1;  // parts of a mini-batch's cost: the slices' penalties
constexpr int ARRAY = sizeof(Trained) / sizeof(T);  // from a parameter to its state, and on

// One network of the table, as resident.py writes it.
struct Network {
    T *parameters, *state;
    const T* numbers;  // the rule's, NUMBERS a mini-batch
    const T* importance;  // of the examples, in the order
    const long long* order;
    double* cost;  // COSTS numbers a mini-batch
    long long examples;
};

// Parameters between memory and shared memory

template <int layer, class Copy> __device__ inline void each_of_the_head(Trained& p, Copy copy)
{
    constexpr int N = size(layer + 1), K = size(layer);
    if constexpr (layer > 0) {
        for (int e = threadIdx.x; e < N * K; e += BLOCK) {
            const int j = e / K, k = e % K;
            copy(p.head[head_before(layer) + j * head_pitch(layer) + k], weights_before(layer) + e);
        }
    }
    for (int j = threadIdx.x; j < N; j += BLOCK) {
        const int b = biases_before(layer) + j;
        copy(p.biases[b], weights_before(LAYERS) + b);
    }
    if constexpr (layer + 1 < LAYERS) each_of_the_head<layer + 1>(p, copy);
}

__device__ inline void load(Trained& p, const T* from, int first_input)
{
    for (int e = threadIdx.x; e < SLICE * PITCH; e += BLOCK) {
        const int j = e / SLICE, k = e % SLICE;
        const bool there = j < N_0 && first_input + k < N_IN;
        p.w[k][j] = there ? from[j * N_IN + first_input + k] : T(0);
    }
    each_of_the_head<0>(p, [&](T& here, int there) { here = from[there]; });
}

__device__ inline void store(Trained& p, T* to, int first_input)
{
    for (int e = threadIdx.x; e < SLICE * N_0; e += BLOCK) {
        const int j = e / SLICE, k = e % SLICE;
        if (first_input + k < N_IN) to[j * N_IN + first_input + k] = p.w[k][j];
    }
    if (first_input == 0) each_of_the_head<0>(p, [&](T& here, int there) { to[there] = here; });
}

// All arrays of the state, which lie one behind the other in memory.
template <class Copy> __device__ inline void each_state(Shared& s, T* state, Copy copy)
{
#if STATES
    constexpr int PARAMETERS = weights_before(LAYERS) + BIASES;
    for (int k = 0; k < STATES; k++) copy(s.states[k], state + (long long)k * PARAMETERS);
#endif
}

// Of mini-batches to come the rows (indices, then inputs and targets) and the rule's numbers, on
// their way in registers.

struct alignas(FETCH * sizeof(Input)) Bundle { Input at[FETCH]; };

struct Coming {
    // A turn takes bundles 8 by 8, 4 rows a warp: whole sectors of memory, few conflicts of banks.
    static constexpr int WIDE = SLICE / FETCH, LINES = (WIDE + 7) / 8;
    static constexpr int TURNS = (LINES * 8 * M + BLOCK - 1) / BLOCK;
    static constexpr int Y_TURNS = (M * Y_WIDTH + BLOCK - 1) / BLOCK;
    static constexpr int RULE_TURNS = (NUMBERS + BLOCK - 1) / BLOCK;
    Bundle x[TURNS];
    Target y[Y_TURNS];
    T numbers[RULE_TURNS];
    long long row;

    __device__ inline void fetch_rule(const T* from)
    {
#pragma unroll
        for (int turn = 0; turn < RULE_TURNS; turn++) {
            const int e = threadIdx.x + turn * BLOCK;
            if (e < NUMBERS) numbers[turn] = from[e];
        }
    }
    __device__ inline void deposit_rule(Shared& s, int step) const
    {
        T* const to = reinterpret_cast<T*>(s.rule + BUFFER(step));
#pragma unroll
        for (int turn = 0; turn < RULE_TURNS; turn++) {
            const int e = threadIdx.x + turn * BLOCK;
            if (e < NUMBERS) to[e] = numbers[turn];
        }
    }
    __device__ inline void fetch_indices(const long long* order, long long first, long long end)
    {
        const long long at = first + threadIdx.x;
        row = threadIdx.x < M && at < end ? order[at] : -1;
    }
    __device__ inline void deposit_indices(Shared& s, int step) const
    {
        if (threadIdx.x < M) s.row[BUFFER(step)][threadIdx.x] = row;
    }

    static __device__ inline int k_of(int e) { return (e / (8 * M) * 8 + e % 8) * FETCH; }
    static __device__ inline int i_of(int e) { return e / 8 % M; }
    static __device__ inline bool is_there(int e) { return e < LINES * 8 * M && k_of(e) < SLICE; }

    __device__ inline void fetch(
        const Shared& s, int step, const Input* inputs, const Target* targets, int first_input)
    {
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int e = threadIdx.x + turn * BLOCK;
            const long long from = is_there(e) ? s.row[BUFFER(step)][i_of(e)] : -1;
            const int k = first_input + k_of(e);
            x[turn] = Bundle{};
            if (from >= 0 && k < N_IN) {
                x[turn] = *reinterpret_cast<const Bundle*>(inputs + from * N_IN + k);
            }
        }
#pragma unroll
        for (int turn = 0; turn < Y_TURNS; turn++) {
            const int e = threadIdx.x + turn * BLOCK;
            const long long from = e < M * Y_WIDTH ? s.row[BUFFER(step)][e / Y_WIDTH] : -1;
            y[turn] = 0;
            if (from >= 0) y[turn] = targets[from * Y_WIDTH + e % Y_WIDTH];
        }
    }
    __device__ inline void deposit(Shared& s, int step) const
    {
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int e = threadIdx.x + turn * BLOCK;
#pragma unroll
            for (int q = 0; q < FETCH; q++) {
                if (!is_there(e)) continue;
                s.x[BUFFER(step)][k_of(e) + q][i_of(e)] = as_input(x[turn].at[q]);
            }
        }
#pragma unroll
        for (int turn = 0; turn < Y_TURNS; turn++) {
            const int e = threadIdx.x + turn * BLOCK;
            if (e < M * Y_WIDTH) s.y[BUFFER(step)][e] = y[turn];
        }
    }
};

// The numbers 0 .. COUNT - 1 of a row, read in pairs; FIRST and STEP in pairs, too.
template <int COUNT, class Each>
__device__ inline void each_in_pairs(const T* row, Each each, int first = 0, int step = 1)
{
#pragma unroll
    for (int pair = first; pair < (COUNT + 1) / 2; pair += step) {
        const Strip<2> x = strip<2>(row + 2 * pair);
        each(2 * pair, x.at[0]);
        if (2 * pair + 1 < COUNT) each(2 * pair + 1, x.at[1]);
    }
}

// Layer 0: w -= eta/m sum_x delta a^T by the rows of ``step``, and z = w a of those of step + 1, in
// one pass over this thread's weights. Returns the penalty before the update.
template <bool UPDATE> __device__ inline double layer_0(Shared& s, int step, T scale)
{
    constexpr int STRIP = sizeof(Strip<J_TILE>) / sizeof(T);  // from one to the next in an array
    const int group = threadIdx.x / J_THREADS;
    double penalties = 0;
    if (group >= GROUPS) return 0;
    Rule rule;
    if constexpr (UPDATE) rule = s.rule[BUFFER(step)];
    for (int j = threadIdx.x % J_THREADS * J_TILE; j < PITCH; j += J_THREADS * J_TILE) {
        Strip<J_TILE> delta[M], z[M] = {};
#pragma unroll
        for (int i = 0; UPDATE && i < M; i++) delta[i] = strip<J_TILE>(s.delta + i * PITCH + j);
#pragma unroll(ROOTS ? 1 : 2)  // the roots of two turns at once would not fit the registers
        for (int k = group; k < SLICE; k += GROUPS) {
            T* const here = &s.parameters.w[k][j];
            Strip<J_TILE> w = strip<J_TILE>(here);
            if constexpr (UPDATE) {
                Strip<J_TILE> state[STATES + 1], sum = {};  // an array cannot have no element
#pragma unroll
                for (int n = 0; n < STATES; n++) state[n] = strip<J_TILE>(here + (n + 1) * ARRAY);
                each_in_pairs<M>(s.x[BUFFER(step)][k], [&](int i, T x) {
#pragma unroll
                    for (int q = 0; q < J_TILE; q++) sum.at[q] += delta[i].at[q] * x;
                });
#pragma unroll
                for (int q = 0; q < J_TILE; q++) {
                    penalties += update_weight(
                        w.at[q], state[0].at + q, STRIP, sum.at[q] * scale, rule);
                }
                strip<J_TILE>(here) = w;
#pragma unroll
                for (int n = 0; n < STATES; n++) strip<J_TILE>(here + (n + 1) * ARRAY) = state[n];
            }
            each_in_pairs<M>(s.x[BUFFER(step + 1)][k], [&](int i, T x) {
#pragma unroll
                for (int q = 0; q < J_TILE; q++) z[i].at[q] += w.at[q] * x;
            });
        }
#pragma unroll
        for (int i = 0; i < M; i++) strip<J_TILE>(s.partial[group] + i * PITCH + j) = z[i];
    }
    return penalties;
}

#if CLUSTER > 1
// This block's part of z to every block of the cluster, the groups added in their order.
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

// BP4 and BP3 of the head, BP3 of layer 0, by the rows that the last step left.
template <int layer>
__device__ inline double update_head(Shared& s, T scale, const Rule& rule)
{
    constexpr int N = size(layer + 1), DELTA = row_pitch(layer);
    const T* delta = s.delta + rows_before(layer);
    double penalties = 0;
    if constexpr (layer > 0) {
        constexpr int K = size(layer), A = row_pitch(layer - 1);
        const T* a = s.a + rows_before(layer - 1);
        for (int e = threadIdx.x; e < N * K; e += BLOCK) {
            const int j = e / K, k = e % K;
            T* const w = s.parameters.head + head_before(layer) + j * head_pitch(layer) + k;
            T sum = 0;
#pragma unroll
            for (int i = 0; i < M; i++) sum += delta[i * DELTA + j] * a[i * A + k];
            penalties += update_weight(*w, w + ARRAY, ARRAY, sum * scale, rule);
        }
    }
    for (int j = BLOCK - 1 - threadIdx.x; j < N; j += BLOCK) {  // the others have less to do
        T* const b = s.parameters.biases + biases_before(layer) + j;
        T sum = 0;
#pragma unroll
        for (int i = 0; i < M; i++) sum += delta[i * DELTA + j];
        update(*b, b + ARRAY, ARRAY, sum * scale, rule);
    }
    if constexpr (layer + 1 < LAYERS) penalties += update_head<layer + 1>(s, scale, rule);
    return penalties;
}

// Row i, by a warp

template <int layer> __device__ inline T* z_of(Shared& s, int i)
{
    if constexpr (layer == LAYERS - 1) return s.z_out + i * row_pitch(layer);
    return s.delta + rows_before(layer) + i * row_pitch(layer);
}

__device__ inline void finish_layer_0(Shared& s, int step, int i)
{
#if CLUSTER > 1
    constexpr int PARTS = CLUSTER;
    const auto& part = s.z[BUFFER(step)];
#else
    constexpr int PARTS = GROUPS;
    const auto& part = s.partial;
#endif
    for (int j = threadIdx.x % 32; j < N_0; j += 32) {
        const int at = i * PITCH + j;
        T z = part[0][at];
#pragma unroll
        for (int p = 1; p < PARTS; p++) z += part[p][at];
        z += s.parameters.biases[j];
        z_of<0>(s, i)[j] = z;
        s.a[at] = sigma<0>(z);
    }
    __syncwarp();
}

// forward: few outputs have several lanes each.
template <int layer> __device__ inline void forward(Shared& s, int i)
{
    if constexpr (layer < LAYERS) {
        constexpr int N = size(layer + 1), K = size(layer), P = head_pitch(layer);
        constexpr int LANES = N == 1 ? 32 : N == 2 ? 16 : N <= 4 ? 8 : N <= 8 ? 4 : N <= 16 ? 2 : 1;
        const int lane = threadIdx.x % 32, at = rows_before(layer) + i * row_pitch(layer);
        const T* a_in = s.a + rows_before(layer - 1) + i * row_pitch(layer - 1);
        for (int j = lane / LANES; j < up(N, 32 / LANES); j += 32 / LANES) {
            const T* w_j = s.parameters.head + head_before(layer) + (j < N ? j : 0) * P;
            T z = 0;
            each_in_pairs<K>(a_in, [&](int k, T a) { z += w_j[k] * a; }, lane % LANES, LANES);
#pragma unroll
            for (int distance = LANES / 2; distance; distance /= 2) {
                z += __shfl_xor_sync(0xffffffffu, z, distance);
            }
            if (j < N && lane % LANES == 0) {
                z += s.parameters.biases[biases_before(layer) + j];
                z_of<layer>(s, i)[j] = z;
                s.a[at + j] = sigma<layer>(z);
            }
        }
        __syncwarp();
        forward<layer + 1>(s, i);
    }
}

// BP2, from the layer below the output down to layer 0.
template <int layer> __device__ inline void bp2(Shared& s, int i)
{
    if constexpr (layer >= 0) {
        constexpr int P = head_pitch(layer + 1), N = size(layer + 2);
        const T* delta_out = s.delta + rows_before(layer + 1) + i * row_pitch(layer + 1);
        const T* w = s.parameters.head + head_before(layer + 1);
        for (int k = threadIdx.x % 32; k < size(layer + 1); k += 32) {
            const int at = rows_before(layer) + i * row_pitch(layer) + k;
            T v = 0;
            each_in_pairs<N>(delta_out, [&](int j, T delta) { v += w[j * P + k] * delta; });
            s.delta[at] = v * sigma_prime<layer>(s.delta[at], s.a[at]);
        }
        __syncwarp();
        bp2<layer - 1>(s, i);
    }
}

// The lane's share of the example's cost; when it returns, all of delta is there.
__device__ inline double row(Shared& s, int step, int i, T importance)
{
    constexpr int OUT = LAYERS - 1;
    const int at = rows_before(OUT) + i * row_pitch(OUT);
    finish_layer_0(s, step, i);
    forward<1>(s, i);
    const double cost =
        output_row(z_of<OUT>(s, i), s.a + at, s.y[BUFFER(step)], i, size(LAYERS), importance,
                   s.delta + at);
    __syncwarp();
    bp2<OUT - 1>(s, i);
    return cost;
}

// An example that a smaller last mini-batch lacks has no error.
template <int layer> __device__ inline void no_row(Shared& s, int i)
{
    for (int j = threadIdx.x % 32; j < size(layer + 1); j += 32) {
        s.delta[rows_before(layer) + i * row_pitch(layer) + j] = 0;
    }
    if constexpr (layer + 1 < LAYERS) no_row<layer + 1>(s, i);
}

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
    __syncthreads();
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
        __syncthreads();
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
        __syncthreads();
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
        __syncthreads();
        cost += m_of(step) * layer_0<true>(s, step, scale_of(step));
    }

    __syncthreads();
    store(s.parameters, network.parameters, first_input);
    each_state(s, network.state, [&](Trained& here, T* there) { store(here, there, first_input); });
    // A block may end here: all that was sent to it has come, and it sends nothing any more.
    if (t == 0 && (PENALTY || rank == 0)) costs[(steps - 1) * COSTS] = told.total();
}
