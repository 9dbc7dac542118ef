// CUDA C for g++: what a kernel sees when each CUDA thread is a fiber on the CPU.
//
// build.py puts this header before a kernel's text, the very text that NVRTC gets, and compiles both
// as C++17. Declared here is what runtime.cpp schedules: barriers, warp collectives, shared memory.
// What CUDA leaves undefined is made visible: shared memory starts as NaN, a lane that takes no
// part in a shuffle gives NaN, and floating-point atomics, whose order is chance, do not compile.
//
// Under -fsanitize=thread only the kernel's own text is instrumented, the runtime is not. So two
// accesses are ordered by what CUDA orders them by, and by nothing else: by barriers, __syncwarp,
// and a __threadfence on either side of an atomic; not by a shuffle, and not by the schedule.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>
#include <utility>

#define GPUBP_CUDA_ON_CPU 1
#define __CUDA_ARCH__ 900
#ifndef __CUDACC_VER_MAJOR__  // an older one takes the instructions that it knows
#define __CUDACC_VER_MAJOR__ 13
#endif
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define CUDA_VECTOR_2(T, name, bytes)    \
  struct alignas(bytes) name {           \
    T x, y;                              \
  };                                     \
  inline name make_##name(T x, T y) { return {x, y}; }
#define CUDA_VECTOR_4(T, name, bytes)    \
  struct alignas(bytes) name {           \
    T x, y, z, w;                        \
  };                                     \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_VECTOR_2(float, float2, 8)
CUDA_VECTOR_4(float, float4, 16)
CUDA_VECTOR_2(double, double2, 16)
CUDA_VECTOR_2(int, int2, 8)
CUDA_VECTOR_4(int, int4, 16)
CUDA_VECTOR_2(unsigned, uint2, 8)
CUDA_VECTOR_4(unsigned, uint4, 16)
CUDA_VECTOR_2(long long, longlong2, 16)
CUDA_VECTOR_4(unsigned char, uchar4, 4)

namespace gpu {

struct Here {  // what tells the running thread from the others
  uint3 thread, block;
  dim3 block_size, grid_size;
};
extern const Here* here;

struct Site {  // where in the kernel's text
  const char* file;
  int line;
};

[[noreturn]] void stop(const char* what, Site);  // the launch, for what the running thread does

void sync_threads(Site);
int sync_threads_count(bool predicate, Site);
void sync_warp(unsigned mask, Site);

// Once every lane of ``mask`` has come: the bits of lane ``source``, NaN if it takes no part; and
// the lanes whose predicate is true.
uint64_t shuffle(unsigned mask, uint64_t bits, unsigned source, Site);
unsigned ballot(unsigned mask, bool predicate, Site);

// Addresses in shared memory are numbers of 32 bits, as PTX has them: how far from where the block's
// own begins, and above OWN_BITS, of another block of the cluster, its rank + 1.
constexpr unsigned OWN_BITS = 24;
uint32_t shared_address(const void*, Site);
void* shared_at(uint32_t address, unsigned bytes, Site);
size_t shared_bytes();  // of the running thread's block, so far
unsigned cluster_rank();
uint32_t in_block(uint32_t address, unsigned rank, Site);
void cluster_sync(Site);
// Barriers that count bytes, too. A relaxed wait orders nothing before fence_cluster.
void mbarrier_init(uint32_t barrier, unsigned arrivals, Site);
void mbarrier_arrive(uint32_t barrier, unsigned bytes, Site);
void mbarrier_complete(uint32_t barrier, unsigned bytes, Site);
void mbarrier_wait(uint32_t barrier, unsigned parity, bool acquires, Site);
void fence_cluster();
// Where 16 bytes that are sent go now; null if they are kept until a receiver must see them.
void* sent(uint32_t to, const uint32_t (&words)[4], uint32_t barrier, Site);
// A counter that others raise, asked again and again: the oldest value that may still be seen.
uint32_t read_anew(const uint32_t* counter, Site);
void raised(const void* counter, uint32_t value);  // by this thread's atomicAdd

// The copies of async_copy.cuh, which the kernel's own text carries out: those that are due once all
// but the newest ``left`` groups of the thread must have arrived.
struct Copy {
  void* to;
  const void* from;
  int bytes;  // 16, or 0 for zeros
};
bool copies_early();
void copy_begun(Copy, Site);
void copies_committed();
const Copy* copies_due(unsigned left, unsigned* count);

// Once all 32 lanes have come: six words of each, as an array of lanes. They stay until this lane
// asks again.
typedef uint32_t Fragments[32][6];
const Fragments& exchange(const uint32_t (&words)[6], Site);

void* dynamic_shared();
void* static_shared(const void* key, size_t bytes, size_t alignment);

// ``__shared__ T name[n];`` becomes ``T (&name)[n] = gpu::shared<T[n]>([] {});``: the closure's type
// is the key, of its own in each declaration and in each instance of a template.
template <class T, class Declaration>
inline T& shared(Declaration) {
  static const char key = 0;
  return *static_cast<T*>(static_shared(&key, sizeof(T), alignof(T) < 16 ? 16 : alignof(T)));
}

#if defined(__SANITIZE_THREAD__) || defined(MODE_THREAD)
void before_atomic(void*);
void after_atomic(void*);
void fence();
#else
inline void before_atomic(void*) {}
inline void after_atomic(void*) {}
inline void fence() {}
#endif

template <class To, class From>
inline To bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps the size");
  To result;
  memcpy(&result, &value, sizeof result);
  return result;
}

template <class T>
inline T shuffled(unsigned mask, T value, unsigned source, Site site) {
  static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
  uint64_t raw = 0;
  memcpy(&raw, &value, sizeof value);
  raw = shuffle(mask, raw, source, site);
  memcpy(&value, &raw, sizeof value);
  return value;
}

// One kernel of this text, as the host asks for it by name; its arguments come as pointers to values.
struct Parameter {
  char pointer, kind;  // kind as NumPy has it: i, u, f; V for a struct, or void behind a pointer
  short bytes;
};
struct Kernel {
  const char* name;
  void (*run)(void** arguments);
  const Parameter* parameters;
  int count, most_threads, cluster;
};

template <class T>
constexpr Parameter parameter() {
  using U = std::remove_cv_t<std::remove_pointer_t<T>>;
  constexpr char kind = std::is_floating_point_v<U> ? 'f'
                        : !std::is_integral_v<U>    ? 'V'
                        : std::is_signed_v<U>       ? 'i'
                                                    : 'u';
  if constexpr (std::is_void_v<U>)
    return {1, 'V', 0};
  else
    return {std::is_pointer_v<T>, kind, sizeof(U)};
}

template <class... A>
constexpr Parameter parameters_of[sizeof...(A) + 1] = {parameter<A>()..., {}};

template <auto function, class... A, size_t... i>
constexpr Kernel kernel(const char* name, int most_threads, int cluster, void (*)(A...),
                        std::index_sequence<i...>) {
  return {name, [](void** a) { function(*static_cast<std::remove_cv_t<A>*>(a[i])...); },
          parameters_of<A...>, int(sizeof...(A)), most_threads, cluster};
}
template <auto function, class... A>
constexpr Kernel kernel(const char* name, int most_threads, int cluster, void (*f)(A...)) {
  return kernel<function>(name, most_threads, cluster, f, std::index_sequence_for<A...>());
}
template <class... Rest>
constexpr int first(int n, Rest...) {
  return n;
}

}  // namespace gpu

// build.py ends the text with  CUDA_KERNELS(CUDA_KERNEL(name, (launch bounds), (cluster)), ...)
#define CUDA_NAME(name) #name
#define CUDA_KERNEL(name, bounds, cluster) \
  gpu::kernel<&name>(CUDA_NAME(name), gpu::first bounds, gpu::first cluster, &name)
#define CUDA_KERNELS(...)                                       \
  extern "C" const gpu::Kernel gpu_kernels[] = {__VA_ARGS__};   \
  extern "C" const int gpu_kernel_count = sizeof gpu_kernels / sizeof *gpu_kernels;

#define threadIdx (gpu::here->thread)
#define blockIdx (gpu::here->block)
#define blockDim (gpu::here->block_size)
#define gridDim (gpu::here->grid_size)
constexpr int warpSize = 32;

// The caller's place, by default arguments.
#define HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(HERE) { gpu::sync_threads({file, line}); }
inline int __syncthreads_count(int predicate, HERE) {
  return gpu::sync_threads_count(predicate != 0, {file, line});
}
inline int __syncthreads_or(int predicate, HERE) {
  return gpu::sync_threads_count(predicate != 0, {file, line}) != 0;
}
inline int __syncthreads_and(int predicate, HERE) {
  return gpu::sync_threads_count(predicate == 0, {file, line}) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, HERE) { gpu::sync_warp(mask, {file, line}); }

inline unsigned gpu_lane() {
  const dim3 n = blockDim;
  return (threadIdx.x + n.x * (threadIdx.y + n.y * threadIdx.z)) % 32;
}
// A lane whose source lies outside its section of ``width`` lanes keeps its own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, HERE) {
  const unsigned section = gpu_lane() & ~(width - 1u);
  return gpu::shuffled(mask, value, section | (source & (width - 1u)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, HERE) {
  const unsigned lane = gpu_lane(), inside = lane & (width - 1u);
  return gpu::shuffled(mask, value, inside < delta ? lane : lane - delta, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, HERE) {
  const unsigned lane = gpu_lane(), inside = lane & (width - 1u);
  return gpu::shuffled(mask, value, inside + delta >= unsigned(width) ? lane : lane + delta,
                      {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HERE) {
  const unsigned lane = gpu_lane(), source = lane ^ lanes;
  return gpu::shuffled(mask, value, (source ^ lane) >= unsigned(width) ? lane : source,
                      {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, HERE) {
  return gpu::ballot(mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HERE) {
  return __ballot_sync(mask, predicate == 0, file, line) == 0;
}

// The instructions of kernels/cuda/cluster.cuh and grid.cuh. What is sent arrives as early as it can
// on half of the schedules, and as late as it may on the others: when a thread of the receiver has
// waited for it and acquired it. A try_wait takes until it has succeeded.
inline size_t __cvta_generic_to_shared(const void* p, HERE) {
  return gpu::shared_address(p, {file, line});
}
inline unsigned cluster_ctarank() { return gpu::cluster_rank(); }
inline unsigned mapa(unsigned address, unsigned rank, HERE) {
  return gpu::in_block(address, rank, {file, line});
}
inline void barrier_cluster(HERE) { gpu::cluster_sync({file, line}); }
inline void mbarrier_init_release(unsigned barrier, unsigned arrivals, HERE) {
  gpu::mbarrier_init(barrier, arrivals, {file, line});
}
inline void mbarrier_arrive_expect_tx(unsigned barrier, unsigned bytes, HERE) {
  gpu::mbarrier_arrive(barrier, bytes, {file, line});
}
inline unsigned mbarrier_try_wait_relaxed(unsigned barrier, unsigned parity, HERE) {
  gpu::mbarrier_wait(barrier, parity, false, {file, line});
  return 1;
}
inline unsigned mbarrier_try_wait_acquire(unsigned barrier, unsigned parity, HERE) {
  gpu::mbarrier_wait(barrier, parity, true, {file, line});
  return 1;
}
inline void fence_acquire_cluster() { gpu::fence_cluster(); }
inline void st_async(unsigned to, uint4 v, unsigned barrier, HERE) {
  void* const now = gpu::sent(to, {v.x, v.y, v.z, v.w}, barrier, {file, line});
  if (now) *static_cast<uint4*>(now) = v;
  gpu::mbarrier_complete(barrier, sizeof v, {file, line});
}
inline void fence_acq_rel_gpu() { gpu::fence(); }
inline unsigned read_anew(const unsigned* counter, HERE) {
  return gpu::read_anew(counter, {file, line});
}

// cp.async: until it has been waited for, what is copied is NaN, or there already; both are allowed.
inline void gpu_copy_now(const gpu::Copy& copy) {
  *static_cast<uint4*>(copy.to) =
      copy.bytes ? *static_cast<const uint4*>(copy.from) : uint4{0, 0, 0, 0};
}
inline void cp_async_16(unsigned to, const void* from, int bytes, HERE) {
  const gpu::Copy copy{gpu::shared_at(to, 16, {file, line}), from, bytes};
  gpu::copy_begun(copy, {file, line});
  if (gpu::copies_early())
    gpu_copy_now(copy);
  else
    *static_cast<uint4*>(copy.to) = {0x7ff8deadu, 0x7ff8deadu, 0x7ff8deadu, 0x7ff8deadu};
}
inline void cp_async_commit_group() { gpu::copies_committed(); }
template <int LEFT>
inline void cp_async_wait_group() {
  unsigned count;
  const gpu::Copy* due = gpu::copies_due(LEFT, &count);
  for (unsigned i = 0; i < count; i++) gpu_copy_now(due[i]);
}

// Tensor cores, as the PTX ISA describes them under "Matrix fragments for mma.m16n8k8" (tf32) and
// "... mma.m16n8k16 with floating point type" (bf16). Lane 4 g + t holds
//   A  row r: g = r % 8, register r / 8, or that + 2 for the second half of the k's
//   B  column c: g = c, register 0, or 1 for the second half of the k's
//   tf32: k of a half is t;  bf16: k of a half is 2 t + (0 for the low 16 bits, 1 for the high ones)
//   D  registers 0, 1: row g, columns 2 t and 2 t + 1; registers 2, 3: row g + 8
// The products are exact and are added to D one after another in float.
inline float gpu_operand(uint32_t word, int half, std::true_type) {  // bf16
  return gpu::bits<float>(half ? word & 0xffff0000u : word << 16);
}
inline float gpu_operand(uint32_t word, int, std::false_type) {  // tf32: the low bits are ignored
  return gpu::bits<float>(word & 0xffffe000u);
}
template <int PER_WORD>
inline void gpu_mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                    gpu::Site site) {
  constexpr std::bool_constant<PER_WORD == 2> pairs{};
  const gpu::Fragments& of = gpu::exchange({a[0], a[1], a[2], a[3], b[0], b[1]}, site);
  const int g = gpu_lane() / 4, t = gpu_lane() % 4;
  for (int n = 0; n < 4; n++) {
    const int c = 2 * t + n % 2;
    for (int k = 0; k < 8 * PER_WORD; k++) {
      const int half = k / (4 * PER_WORD), at = k % (4 * PER_WORD) / PER_WORD, low = k % PER_WORD;
      const float a_k = gpu_operand(of[4 * g + at][n / 2 + 2 * half], low, pairs);
      const float b_k = gpu_operand(of[4 * c + at][4 + half], low, pairs);
      d[n] = float(double(a_k) * b_k + d[n]);
    }
  }
}
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], HERE) {
  gpu_mma<1>(d, a, b, {file, line});
}
inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], HERE) {
  gpu_mma<2>(d, a, b, {file, line});
}
#undef HERE

// cvt.rna.tf32.f32: to nearest, ties away from zero; NaN and infinity stay.
inline unsigned cvt_rna_tf32(float x) {
  const unsigned word = gpu::bits<unsigned>(x);
  return isfinite(x) ? (word + 0x1000u) & 0xffffe000u : x != x ? 0x7fffe000u : word;
}
// cvt.rn.bf16.f32: to nearest, ties to even; NaN and infinity stay.
inline unsigned short cvt_rn_bf16(float x) {
  const unsigned word = gpu::bits<unsigned>(x);
  return x != x ? 0x7fffu : (word + 0x7fffu + (word >> 16 & 1u)) >> 16;
}

// Atomics on integers: whatever the order, the result is one.
#define CUDA_ATOMIC(name, expression)                                                  \
  template <class T>                                                                   \
  inline T name(T* p, std::common_type_t<T> v) {                                       \
    static_assert(std::is_integral_v<T>, "floating-point atomics add in chance order"); \
    gpu::before_atomic(p);                                                             \
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);                                      \
    while (!__atomic_compare_exchange_n(p, &old, T(expression), false, __ATOMIC_RELAXED, \
                                        __ATOMIC_RELAXED)) {                           \
    }                                                                                  \
    gpu::after_atomic(p);                                                              \
    if constexpr (sizeof(T) == 4) gpu::raised(p, uint32_t(T(expression)));             \
    return old;                                                                        \
  }
CUDA_ATOMIC(atomicAdd, old + v)
CUDA_ATOMIC(atomicSub, old - v)
CUDA_ATOMIC(atomicMax, old > v ? old : v)
CUDA_ATOMIC(atomicMin, old < v ? old : v)
CUDA_ATOMIC(atomicAnd, old & v)
CUDA_ATOMIC(atomicOr, old | v)
CUDA_ATOMIC(atomicXor, old ^ v)
CUDA_ATOMIC(atomicExch, v)
CUDA_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
#undef CUDA_ATOMIC
template <class T>
inline T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  static_assert(std::is_integral_v<T>, "compare-and-swap is for integers");
  gpu::before_atomic(p);
  __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  gpu::after_atomic(p);
  return expected;
}
inline void __threadfence() { gpu::fence(); }
inline void __threadfence_block() { gpu::fence(); }

// Cached and streaming accesses are accesses.
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcg(const T* p) {
  return *p;
}
template <class T>
inline T __ldcs(const T* p) {
  return *p;
}
template <class T>
inline void __stcg(T* p, T v) {
  *p = v;
}
template <class T>
inline void __stcs(T* p, T v) {
  *p = v;
}

// Arithmetic. The fast forms are the exact ones here: their error is a GPU's own affair.
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline double __drcp_rn(double x) { return 1 / x; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline int __float2int_rn(float x) { return int(lrintf(x)); }
inline int __float_as_int(float x) { return gpu::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return gpu::bits<unsigned>(x); }
inline float __int_as_float(int x) { return gpu::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return gpu::bits<float>(x); }
inline long long __double_as_longlong(double x) { return gpu::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return gpu::bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T, class U>
constexpr std::common_type_t<T, U> min(T a, U b) {
  using V = std::common_type_t<T, U>;
  if constexpr (std::is_floating_point_v<V>)
    return V(b) != V(b) || V(a) < V(b) ? V(a) : V(b);  // as CUDA's: the number, if one is NaN
  else
    return V(a) < V(b) ? V(a) : V(b);
}
template <class T, class U>
constexpr std::common_type_t<T, U> max(T a, U b) {
  using V = std::common_type_t<T, U>;
  if constexpr (std::is_floating_point_v<V>)
    return V(b) != V(b) || V(a) > V(b) ? V(a) : V(b);
  else
    return V(a) > V(b) ? V(a) : V(b);
}
