// COUNT neighbours, read or written at once.
template <class E, int COUNT> struct alignas(COUNT * sizeof(E)) Run { E at[COUNT]; };
template <class E, int COUNT> __device__ inline void read_run(const E* first, T (&to)[COUNT])
{
    const auto run = *reinterpret_cast<const Run<E, COUNT>*>(first);
#pragma unroll
    for (int q = 0; q < COUNT; q++) to[q] = as_input(run.at[q]);
}
template <class E, int COUNT> __device__ inline void write_run(E* first, const E (&from)[COUNT])
{
    Run<E, COUNT> run;
#pragma unroll
    for (int q = 0; q < COUNT; q++) run.at[q] = from[q];
    *reinterpret_cast<Run<E, COUNT>*>(first) = run;
}

// Where the lines of an operand lie that nobody gathers: line l begins at base + l pitch.
template <class E> struct Lines {
    const E* base;
    long long pitch;
    __device__ const E* operator()(int l) const { return base + l * pitch; }
};
