// What a block of resident.cu has in shared memory, where it lies there, and the way in and out.
//
// Of w^2 a block has the columns of its SLICE of the inputs, turned over: w[k][j], so that
// neighbours in a row are neurons j. What the update rule keeps beside each parameter is a whole
// Trained for each array, ARRAY numbers from one to the next.
//
// Reads of layer 0 are pairs of examples, the same for all lanes of a group, and J_TILE
// neighbouring weights; the head's rows are an odd number of words apart, so that lanes may run
// along either index. What Shared holds is added up in capacity.py, too, and must agree.

// Sizes

constexpr int WARPS = BLOCK / 32;

// What alternates has two buffers: writers may be a step ahead of readers.
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

// What lies there

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
