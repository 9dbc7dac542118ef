// What the C++ that ptx.py writes stands on, beside cuda.h.
#include <limits>

namespace ptx {

using gpu::Site;

// The block's own shared memory, by addresses as PTX has them.
struct Window {
  char* const memory = static_cast<char*>(gpu::dynamic_shared());
  const size_t bytes = gpu::shared_bytes();

  template <class T, unsigned BYTES>
  T* place(uint64_t address, Site site) const {
    if (address % BYTES || address + BYTES > bytes)
      return static_cast<T*>(gpu::shared_at(address, BYTES, site));  // says what is wrong
    return reinterpret_cast<T*>(memory + address);
  }
};

// What a thread keeps in mind: that it has arrived at the cluster's barrier, which is two
// instructions here, and how many turns of loops it has taken.
struct Thread {
  static constexpr unsigned MOST_TURNS = 50000;  // many times what small networks take
  bool there = false;
  unsigned turns = 0;

  void cluster(Site site) {
    if (there) gpu::stop("arrives at the cluster's barrier twice", site);
    there = true;
  }
  void wait_for_cluster(Site site) {
    if (!there) gpu::stop("waits at the cluster's barrier without arriving", site);
    there = false;
    gpu::cluster_sync(site);
  }
  void turn(Site site) {
    if (++turns > MOST_TURNS) gpu::stop("takes turns of a loop for ever", site);
  }
};

}  // namespace ptx

template <class T>
inline T* at(uint64_t address) {
  return reinterpret_cast<T*>(address);
}
template <class T, unsigned BYTES>
inline T* place(uint64_t address, gpu::Site site) {
  if (address % BYTES) gpu::stop("has an address off its alignment", site);
  return reinterpret_cast<T*>(address);
}

// .ftz: numbers below the least normal one count as zero, of the same sign.
inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

// .sat: from 0 to 1, where NaN is 0.
inline float saturated(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }

// To whole numbers: towards zero, to the nearest one there is; NaN is 0.
template <class T>
inline T converted(double x) {
  constexpr double most = double(std::numeric_limits<T>::max());
  if (x != x) return 0;
  if (x >= most) return std::numeric_limits<T>::max();
  return x <= double(std::numeric_limits<T>::min()) ? std::numeric_limits<T>::min() : T(x);
}

// x + y in float, rounded otherwise than to the nearest: the error of the sum in double says on which
// side of the nearest float the sum lies.
inline float rounded_down(double x, double y) {
  const double sum = x + y, of_y = sum - x, error = (x - (sum - of_y)) + (y - of_y);
  const float nearest = float(sum);
  const bool above = double(nearest) > sum || (double(nearest) == sum && error < 0);
  return above ? nextafterf(nearest, -INFINITY) : nearest;
}
inline float rounded_to_zero(double x, double y) {
  return x + y < 0 ? -rounded_down(-x, -y) : rounded_down(x, y);
}

// bfi: ``length`` bits of ``field`` into ``into`` from bit ``at`` on.
template <class T>
inline T inserted(T field, T into, uint32_t at, uint32_t length) {
  constexpr uint32_t bits = 8 * sizeof(T);
  if (at >= bits || !length) return into;
  const T ones = length >= bits ? ~T(0) : (T(1) << length) - 1, mask = ones << at;
  return (into & ~mask) | ((field << at) & mask);
}
// shfl.bfly: the lane to read from, this one if that lies beyond the clamp of its segment.
inline uint32_t butterfly(uint32_t lanes, uint32_t clamp) {
  const uint32_t lane = gpu_lane(), segment = clamp >> 8 & 31;
  const uint32_t most = (lane & segment) | (clamp & 31 & ~segment);
  return (lane ^ lanes) <= most ? lane ^ lanes : lane;
}
inline uint32_t popc(uint32_t x) { return __builtin_popcount(x); }
inline uint32_t popc(uint64_t x) { return __builtin_popcountll(x); }
inline uint32_t clz(uint32_t x) { return x ? __builtin_clz(x) : 32; }
inline uint32_t clz(uint64_t x) { return x ? __builtin_clzll(x) : 64; }
