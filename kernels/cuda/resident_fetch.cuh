// Mini-batches to come, on their way from memory in registers: their rows and the rule's numbers.
//
//     x = a^1 of the rows order[first + i];  y of the same rows;  eta, mu, ... of the step
//
// Memory is far away, and a step is short. So each number is asked for in one step and put into
// shared memory in the next, and a row's index comes before the row: while step s trains, the rows
// of s + 1 are deposited and those of s + 2 asked for, the indices of s + 3 deposited and those of
// s + 4 asked for. An example that is not there has the index -1, and its inputs are 0.

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
