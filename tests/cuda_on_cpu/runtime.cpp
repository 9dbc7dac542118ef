// The scheduler behind cuda.h: one fiber a CUDA thread, all on one CPU thread, in a chosen order.
//
// A launch runs its threads until each has returned. A thread runs until it must wait for others;
// then the next one in the order has its turn. So every run of a schedule is the same run, and a
// missing barrier gives the same wrong number each time, on those schedules where it matters:
//
//   0 forward, 1 reverse     all resident threads in turn, block by block and thread by thread
//   2, 3 block-greedy        a block runs until all its threads have returned or wait for another
//                            block: from the first block up, from the last one down
//   4, 5 shuffled            all resident threads, in an order drawn anew for each turn (two seeds)
//
// Resident are blocks of at most RESIDENT threads together, as many as a GPU holds at a time; one
// at a time where a schedule is greedy, all blocks of a cluster and of a cooperative launch.
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda.h"

#if defined(MODE_THREAD)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#elif defined(MODE_ADDRESS)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace gpu {
namespace {

constexpr unsigned RESIDENT = 8192;
constexpr size_t STATIC_LIMIT = 48 << 10, SHARED_LIMIT = 227 << 10, GAP = 64;
constexpr size_t ARENA = SHARED_LIMIT + 64 * GAP;
#if defined(MODE_ADDRESS)
constexpr size_t STACK = 256 << 10;
#else
constexpr size_t STACK = 64 << 10;
#endif
#if defined(MODE_THREAD)
constexpr bool REUSE = false;  // two blocks in one place, one after the other, would look like a race
constexpr bool LATE = false;   // the sender's write is to be seen as the sender's
#else
constexpr bool REUSE = true, LATE = true;
#endif
constexpr uint64_t CANARY = 0x5afe57ac5afe57acull;

// A switch of contexts: callee-saved registers on the old stack, then the new stack's.

#if defined(__x86_64__)
extern "C" void gpu_switch(void** from, void* to);
asm(R"(
.text
.globl gpu_switch
.type gpu_switch, @function
gpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gpu_switch, .-gpu_switch
)");
struct Context {
  void* top = nullptr;
  void start(char* stack, size_t size, void (*entry)()) {
    void** frame = reinterpret_cast<void**>(stack + size);
    *--frame = nullptr;                          // where entry would return to: it never does
    *--frame = reinterpret_cast<void*>(entry);
    top = frame - 6;
  }
  void to(Context& other) { gpu_switch(&top, other.top); }
};
#else
}  // namespace
}  // namespace gpu
#include <ucontext.h>
namespace gpu {
namespace {
struct Context {
  ucontext_t context;
  void start(char* stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  void to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

// Memory is kept for the next launch. A stack begins elsewhere within its page, so that the threads
// of a block do not all want the same lines of the cache.

struct Stack {
  char* memory;
  size_t size;
};

char* pages(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) perror("memory for CUDA threads"), abort();
  return static_cast<char*>(memory);
}

Stack stack(size_t i) {
  static std::vector<Stack> pool;
  while (pool.size() <= i) {
    char* memory = pages(STACK);
    memcpy(memory, &CANARY, sizeof CANARY);
    pool.push_back({memory, STACK - pool.size() % 16 * 256});
  }
  return pool[i];
}

char* arena(size_t i) {  // in which a block's shared memory is laid out
  static std::vector<char*> pool;
  while (pool.size() <= i) pool.push_back(pages(ARENA));
  return pool[i];
}

// ``count`` threads meet; the phase advances when all that live have arrived.

struct Barrier {
  unsigned live = 0, arrived = 0;
  uint64_t phase = 0;
  Site site{};
  char order[2];  // what ThreadSanitizer knows this barrier's phases by, odd and even

  void release_if_full() {
    if (arrived && arrived == live) arrived = 0, phase++;
  }
};

struct Collective {  // the lanes of one mask
  unsigned mask;
  Barrier barrier;
  struct Half {
    uint64_t slot[32];
    Fragments fragments;
    unsigned present;
  } halves[2];
};

struct Warp {
  unsigned live = 0;
  std::vector<std::unique_ptr<Collective>> collectives;
};

// What an mbarrier's 8 bytes of shared memory hold here.
struct Mbarrier {
  static constexpr uint8_t MAGIC = 0x5a;
  uint8_t magic, phase, arrivals, pending;
  int32_t bytes;

  void release_if_full() {
    if (!pending && !bytes) pending = arrivals, phase++;
  }
  // What ThreadSanitizer knows its odd and even phases by.
  char* order(unsigned parity) { return reinterpret_cast<char*>(this) + (parity & 1); }
};

// The copies that a thread has begun and not yet waited for.
struct Copies {
  struct Group {
    std::vector<Copy> copies;
  };
  std::vector<Copy> open, due;  // of no group yet; those that a wait has just handed out
  std::vector<Group> closed;    // the oldest first
};

struct Block;

struct Cluster {
  Barrier barrier;
  std::vector<Block*> blocks;
};

struct Fiber {
  Context context;
  Here here;
  Block* block = nullptr;
  unsigned index = 0;  // of the thread within its block
  bool started = false, done = false;
  Barrier* waits = nullptr;
  const unsigned* counter = nullptr;  // or waits until this is ``until``
  unsigned until = 0;
  uint64_t phase = 0;
  Mbarrier* expects = nullptr;
  unsigned parity = 0;
  bool asked = false;  // the counter below for the value it is known to have
  const void* known = nullptr;
  uint32_t value = 0;
  std::vector<char*> waited;  // mbarriers that a relaxed wait has seen, until it acquires
  Site site{};
  Stack memory{};
  void* sanitizer = nullptr;       // TSan's fiber, or ASan's fake stack
  Copies copies;
  bool fenced = false;             // a __threadfence came before the next atomic
  std::vector<void*> atomics;      // touched since the last __threadfence
};

struct Sent {  // that a receiver need not see yet
  void* to;
  uint32_t words[4];
  const Mbarrier* barrier;
  uint8_t phase;
};

struct Block {
  uint3 index{};
  std::vector<Sent> sent;
  Cluster* cluster = nullptr;
  unsigned rank = 0;
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<Fiber> fibers;
  int count[2];  // __syncthreads_count, odd and even phases
  char* arena = nullptr;
  size_t used = 0, fixed = 0, taken = 0;
  char* dynamic = nullptr;
  std::vector<std::pair<const void*, void*>> fixed_arrays;
  unsigned alive = 0;
};

struct Launch {
  const Kernel* kernel;
  void** arguments;
  dim3 grid, size;
  size_t dynamic_bytes;
  bool late;  // what is sent arrives as late as it may
  bool abandoned = false, copies_early = false;
  std::string error;
  char begin, end;  // what comes before all threads, and after them
};

Launch* launch;
Fiber* running;
Context host;
#if defined(MODE_THREAD)
void* host_fiber;
// Making TSan's fibers takes longer than anything else. They serve again, but not before the next
// launch, which comes after this one anyway: here they would order one block behind another.
constexpr size_t TSAN_FIBERS = 4096;  // of the 8128 that TSan can have
std::vector<void*> idle, spent;

void* tsan_fiber() {
  if (idle.empty()) return __tsan_create_fiber(0);
  void* fiber = idle.back();
  idle.pop_back();
  return fiber;
}
#elif defined(MODE_ADDRESS)
const void* host_stack;
size_t host_stack_size;
#endif

std::string name(const Fiber& f) {
  const uint3 b = f.here.block, t = f.here.thread;
  char text[120];
  snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", t.x, t.y, t.z, b.x, b.y,
           b.z);
  return text;
}

std::string name(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

void report(const std::string& text) {  // the first is the cause, what follows follows from it
  if (launch->error.empty()) launch->error = std::string(launch->kernel->name) + ": " + text;
}

// Switching, with the sanitizers told

void enter(Fiber& f) {
  running = &f;
  here = &f.here;
#if defined(MODE_THREAD)
  __tsan_switch_to_fiber(f.sanitizer, __tsan_switch_to_fiber_no_sync);
#elif defined(MODE_ADDRESS)
  void* fake;
  __sanitizer_start_switch_fiber(&fake, f.memory.memory, f.memory.size);
#endif
  host.to(f.context);
#if defined(MODE_ADDRESS)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void leave() {
  Fiber& f = *running;
#if defined(MODE_THREAD)
  __tsan_switch_to_fiber(host_fiber, __tsan_switch_to_fiber_no_sync);
#elif defined(MODE_ADDRESS)
  __sanitizer_start_switch_fiber(f.done ? nullptr : &f.sanitizer, host_stack, host_stack_size);
#endif
  f.context.to(host);
#if defined(MODE_ADDRESS)
  __sanitizer_finish_switch_fiber(f.sanitizer, nullptr, nullptr);
#endif
}

void entry() {
#if defined(MODE_THREAD)
  __tsan_acquire(&launch->begin);
#elif defined(MODE_ADDRESS)
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_size);
#endif
  launch->kernel->run(launch->arguments);
#if defined(MODE_THREAD)
  __tsan_release(&launch->end);
#endif
  running->done = true;
  leave();
  abort();  // nothing resumes a thread that has returned
}

void wait(Barrier& barrier, Site site, bool orders_memory) {
  Fiber& f = *running;
  if (!barrier.arrived)
    barrier.site = site;
  else if (barrier.site.line != site.line || strcmp(barrier.site.file, site.file))
    report("divergent barrier: " + name(f) + " is at " + name(site) + ", others at " +
           name(barrier.site));
#if defined(MODE_THREAD)
  // Two places for two phases: who is past this one must not lend its next release to those here.
  char* order = &barrier.order[barrier.phase & 1];
  if (orders_memory) __tsan_release(order);
#endif
  f.waits = &barrier;
  f.phase = barrier.phase;
  f.site = site;
  barrier.arrived++;
  barrier.release_if_full();
  leave();
#if defined(MODE_THREAD)
  if (orders_memory) __tsan_acquire(order);
#else
  (void)orders_memory;
#endif
}

// What cannot go on: the launch ends here.
[[noreturn]] void fail(const std::string& text) {
  report(text);
  launch->abandoned = true;
  leave();
  abort();
}

Mbarrier& mbarrier(uint32_t address, Site site) {
  Mbarrier* const found = static_cast<Mbarrier*>(shared_at(address, sizeof(Mbarrier), site));
  if (found->magic != Mbarrier::MAGIC)
    fail(name(*running) + " at " + name(site) + " uses an mbarrier that is not initialised");
  return *found;
}
#if defined(MODE_THREAD)
// Who waits until a counter has a value comes behind those that raised it so far, not behind who
// has raised it further meanwhile: that is the schedule's chance. So each of the last values has a
// place of its own.
constexpr unsigned ARRIVALS = 64;

char* arrival(const void* counter, unsigned value) {
  static std::vector<std::pair<const void*, std::unique_ptr<char[]>>> places;
  for (auto& [known, memory] : places)
    if (known == counter) return &memory[value % ARRIVALS];
  places.emplace_back(counter, new char[ARRIVALS]);
  return &places.back().second[value % ARRIVALS];
}
#endif

// To ThreadSanitizer an allocation is a write by whoever makes it: the runtime's own are hidden.
struct Unwatched {
#if defined(MODE_THREAD)
  Unwatched() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Unwatched() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
#endif
};

Warp& warp() { return running->block->warps[running->index / 32]; }

Collective& collective(unsigned mask, Site site) {
  Warp& w = warp();
  if (!(mask >> running->index % 32 & 1))
    report(name(*running) + " at " + name(site) + " is not in the mask it names");
  for (auto& c : w.collectives)
    if (c->mask == mask) return *c;
  [[maybe_unused]] const Unwatched unwatched;
  w.collectives.emplace_back(new Collective{});
  Collective& c = *w.collectives.back();
  c.mask = mask;
  c.barrier.live = __builtin_popcount(mask & w.live);
  return c;
}

// Shared memory

// An array, and a gap behind it, both full of NaN: what is read out of bounds is NaN, too.
void* take(Block& block, size_t bytes) {
  char* p = block.arena + block.used;
  const size_t whole = (bytes + GAP + GAP - 1) / GAP * GAP;
  std::fill_n(reinterpret_cast<uint32_t*>(p), whole / 4, 0x7ff8dead);  // NaN; twice: NaN as double
  block.used += whole;
  block.taken += bytes;
#if defined(MODE_ADDRESS)
  __asan_unpoison_memory_region(p, bytes);
#endif
  return p;
}

void begin(Block& block, unsigned index, size_t place) {
  [[maybe_unused]] const Unwatched unwatched;
  const dim3 grid = launch->grid, size = launch->size;
  const unsigned threads = size.x * size.y * size.z;
  block.index = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
  block.arena = arena(place);
#if defined(MODE_ADDRESS)
  __asan_poison_memory_region(block.arena, ARENA);
#endif
  block.dynamic = static_cast<char*>(take(block, launch->dynamic_bytes));
  block.warps.resize((threads + 31) / 32);
  block.fibers.resize(threads);
  block.barrier.live = block.alive = threads;
  for (unsigned i = 0; i < threads; i++) {
    Fiber& f = block.fibers[i];
    f.here = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, block.index, size, grid};
    f.block = &block;
    f.index = i;
    f.memory = stack(place * threads + i);
    f.context.start(f.memory.memory, f.memory.size, entry);
    block.warps[i / 32].live |= 1u << i % 32;
#if defined(MODE_THREAD)
    f.sanitizer = tsan_fiber();
#elif defined(MODE_ADDRESS)
    __asan_unpoison_memory_region(f.memory.memory, f.memory.size);  // an abandoned thread's frames
#endif
  }
}

void end(Block& block) {
  [[maybe_unused]] const Unwatched unwatched;
#if defined(MODE_THREAD)
  for (Fiber& f : block.fibers)
    if (f.done && idle.size() + spent.size() < TSAN_FIBERS)
      spent.push_back(f.sanitizer);
    else
      __tsan_destroy_fiber(f.sanitizer);
#endif
  block = Block();
}

// Whether others have still to raise the counter that this thread waits for.
bool before(const Fiber& f) {
  return int(__atomic_load_n(f.counter, __ATOMIC_RELAXED) - f.until) < 0;
}

// One turn of one thread, if it can take it.
bool step(Fiber& f) {
  if (f.done || (f.waits && f.waits->phase == f.phase) || (f.counter && before(f))) return false;
  if (f.expects && (f.expects->phase & 1) == f.parity) return false;
  f.waits = nullptr;
  f.counter = nullptr;
  f.expects = nullptr;
  enter(f);
  if (memcmp(f.memory.memory, &CANARY, sizeof CANARY))
    report(name(f) + " needs more stack than the " + std::to_string(STACK) + " bytes it has here");
  if (f.done) {
    Block& block = *f.block;
    Warp& w = block.warps[f.index / 32];
    block.alive--;
    block.barrier.live--;
    block.barrier.release_if_full();
    block.cluster->barrier.live--;
    block.cluster->barrier.release_if_full();
    w.live &= ~(1u << f.index % 32);
    for (auto& c : w.collectives) {
      c->barrier.live = __builtin_popcount(c->mask & w.live);
      c->barrier.release_if_full();
    }
  }
  return true;
}

}  // namespace

const Here* here;

void stop(const char* what, Site site) { fail(name(*running) + " at " + name(site) + " " + what); }

void sync_threads(Site site) { wait(running->block->barrier, site, true); }

int sync_threads_count(bool predicate, Site site) {
  Block& block = *running->block;
  int& count = block.count[block.barrier.phase & 1];
  if (!block.barrier.arrived) count = 0;
  count += predicate;
  wait(block.barrier, site, true);
  return count;
}

void sync_warp(unsigned mask, Site site) { wait(collective(mask, site).barrier, site, true); }

// A thread that asks again for a counter that it knows waits until others have raised it, and then
// sees the next value: how far they have come meanwhile is the schedule's chance.
uint32_t read_anew(const uint32_t* counter, Site site) {
  Fiber& f = *running;
  const uint32_t now = __atomic_load_n(counter, __ATOMIC_RELAXED);
  if (f.known != counter) {
    f.known = counter;
    f.value = now;
  } else if (f.asked) {
    f.counter = counter;
    f.until = f.value + 1;
    f.site = site;
    if (before(f)) leave();
    f.counter = nullptr;
    f.value++;
  }
  f.asked = true;
#if defined(MODE_THREAD)
  f.atomics.erase(std::remove(f.atomics.begin(), f.atomics.end(), counter), f.atomics.end());
  for (unsigned i = 0; i < ARRIVALS / 2; i++) after_atomic(arrival(counter, f.value - i));
#endif
  return f.value;
}

void raised(const void* counter, uint32_t value) {
  running->known = counter;
  running->value = value;
  running->asked = false;
}

uint64_t shuffle(unsigned mask, uint64_t bits, unsigned source, Site site) {
  // Odd and even phases have slots of their own: a lane that is ahead by one spares what the
  // others have still to read, and it cannot be ahead by two.
  Collective& c = collective(mask, site);
  Collective::Half& half = c.halves[c.barrier.phase & 1];
  if (!c.barrier.arrived) half.present = 0;
  half.present |= 1u << running->index % 32;
  half.slot[running->index % 32] = bits;
  wait(c.barrier, site, false);
  return half.present >> source & 1 ? half.slot[source] : 0x7ff8dead7ff8deadull;
}

unsigned ballot(unsigned mask, bool predicate, Site site) {
  Collective& c = collective(mask, site);
  Collective::Half& half = c.halves[c.barrier.phase & 1];
  if (!c.barrier.arrived) half.present = 0;
  half.present |= unsigned(predicate) << running->index % 32;
  wait(c.barrier, site, false);
  return half.present;
}

unsigned cluster_rank() { return running->block->rank; }

void cluster_sync(Site site) { wait(running->block->cluster->barrier, site, true); }

uint32_t shared_address(const void* p, Site site) {
  const Block& own = *running->block;
  const size_t offset = static_cast<const char*>(p) - own.arena;
  if (offset >= own.used)
    fail(name(*running) + " at " + name(site) + " takes the shared address of other memory");
  return offset;
}

size_t shared_bytes() { return running->block->used; }

// The block that an address lies in, checked.
Block& block_of(uint32_t address, unsigned bytes, Site site) {
  Block& own = *running->block;
  const std::vector<Block*>& blocks = own.cluster->blocks;
  const unsigned rank = address >> OWN_BITS ? (address >> OWN_BITS) - 1 : own.rank;
  const size_t offset = address & ((1u << OWN_BITS) - 1);
  if (rank >= blocks.size() || offset + bytes > own.used)
    fail(name(*running) + " at " + name(site) + " names no shared memory of its cluster");
  if (offset % bytes)
    fail(name(*running) + " at " + name(site) + " is off the alignment of its " +
         std::to_string(bytes) + " bytes");
  if (!blocks[rank]->alive)
    fail(name(*running) + " at " + name(site) + " reaches into a block that has ended");
  return *blocks[rank];
}

void* shared_at(uint32_t address, unsigned bytes, Site site) {
  return block_of(address, bytes, site).arena + (address & ((1u << OWN_BITS) - 1));
}

uint32_t in_block(uint32_t address, unsigned rank, Site site) {
  if (address >> OWN_BITS)
    fail(name(*running) + " at " + name(site) + " maps an address that is mapped already");
  const uint32_t there = (rank + 1) << OWN_BITS | address;
  block_of(there, 1, site);
  return there;
}

void mbarrier_init(uint32_t address, unsigned arrivals, Site site) {
  if (!arrivals || arrivals > 255)
    fail(name(site) + ": an mbarrier is for 1 to 255 arrivals here");
  *static_cast<Mbarrier*>(shared_at(address, sizeof(Mbarrier), site)) =
      {Mbarrier::MAGIC, 0, uint8_t(arrivals), uint8_t(arrivals), 0};
}

void mbarrier_arrive(uint32_t address, unsigned bytes, Site site) {
  Mbarrier& barrier = mbarrier(address, site);
  if (!barrier.pending) fail(name(*running) + " at " + name(site) + " arrives once too often");
#if defined(MODE_THREAD)
  __tsan_release(barrier.order(barrier.phase));
#endif
  barrier.bytes += bytes;
  barrier.pending--;
  barrier.release_if_full();
}

void mbarrier_complete(uint32_t address, unsigned bytes, Site site) {
  Mbarrier& barrier = mbarrier(address, site);
#if defined(MODE_THREAD)
  __tsan_release(barrier.order(barrier.phase));
#endif
  barrier.bytes -= bytes;
  barrier.release_if_full();
}

void* sent(uint32_t to, const uint32_t (&words)[4], uint32_t barrier, Site site) {
  void* const there = shared_at(to, sizeof words, site);
  Block& receiver = block_of(to, sizeof words, site);
  if (&receiver != &block_of(barrier, sizeof(Mbarrier), site))
    fail(name(*running) + " at " + name(site) + " sends to one block and counts it in another");
  if (!launch->late) return there;
  const Mbarrier& counts = mbarrier(barrier, site);
  Sent kept{there, {}, &counts, counts.phase};
  memcpy(kept.words, words, sizeof words);
  receiver.sent.push_back(kept);
  return nullptr;
}

void mbarrier_wait(uint32_t address, unsigned parity, bool acquires, Site site) {
  Mbarrier& barrier = mbarrier(address, site);
  running->expects = &barrier;
  running->parity = parity;
  running->site = site;
  leave();
  running->waited.push_back(barrier.order(parity));
  if (acquires) fence_cluster();
}

// All that the phases which this thread has seen complete have counted, is here.
void fence_cluster() {
#if defined(MODE_THREAD)
  for (char* place : running->waited) __tsan_acquire(place);
#endif
  if (!running->waited.empty()) {
    std::vector<Sent>& sent = running->block->sent;
    const auto counted = [](const Sent& s) { return s.barrier->phase != s.phase; };
    for (const Sent& s : sent)
      if (counted(s)) memcpy(s.to, s.words, sizeof s.words);
    sent.erase(std::remove_if(sent.begin(), sent.end(), counted), sent.end());
  }
  running->waited.clear();
}

const Fragments& exchange(const uint32_t (&words)[6], Site site) {
  if (warp().live != ~0u)
    report(name(*running) + " at " + name(site) + ": mma.sync needs a whole warp");
  Collective& c = collective(~0u, site);
  Collective::Half& half = c.halves[c.barrier.phase & 1];
  memcpy(half.fragments[running->index % 32], words, sizeof words);
  wait(c.barrier, site, false);
  return half.fragments;
}

void* dynamic_shared() { return running->block->dynamic; }

void* static_shared(const void* key, size_t bytes, size_t alignment) {
  Block& block = *running->block;
  for (auto& [known, memory] : block.fixed_arrays)
    if (known == key) return memory;
  block.fixed += bytes;
  if (alignment > GAP || block.fixed > STATIC_LIMIT || block.taken + bytes > SHARED_LIMIT)
    fail("needs more shared memory than a block may have: " + std::to_string(block.fixed) +
         " bytes declared, at most " + std::to_string(STATIC_LIMIT) + ", and " +
         std::to_string(launch->dynamic_bytes) + " dynamic");
  block.fixed_arrays.emplace_back(key, take(block, bytes));
  return block.fixed_arrays.back().second;
}

// Copies past the registers: on half of the schedules at once, on the others when waited for.
bool copies_early() { return launch->copies_early; }
void copy_begun(Copy copy, Site site) {
  const auto address = reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from);
  if (copy.bytes && address % 16)
    report(name(*running) + " at " + name(site) + ": 16 bytes at an address that is no multiple of 16");
  if (!launch->copies_early) running->copies.open.push_back(copy);
}
void copies_committed() {
  running->copies.closed.push_back({std::move(running->copies.open)});
  running->copies.open.clear();
}
const Copy* copies_due(unsigned left, unsigned* count) {
  Copies& own = running->copies;
  own.due.clear();
  while (own.closed.size() > left) {
    for (const Copy& copy : own.closed.front().copies) own.due.push_back(copy);
    own.closed.erase(own.closed.begin());
  }
  *count = own.due.size();
  return own.due.data();
}

#if defined(MODE_THREAD)
// A fence before an atomic releases, a fence after one acquires what others released there.
void before_atomic(void* p) {
  if (!running->fenced) return;
  __tsan_release(p);
  if (reinterpret_cast<uintptr_t>(p) % 4 == 0)
    __tsan_release(arrival(p, __atomic_load_n(static_cast<unsigned*>(p), __ATOMIC_RELAXED) + 1));
}
void after_atomic(void* p) {
  std::vector<void*>& touched = running->atomics;
  if (std::find(touched.begin(), touched.end(), p) == touched.end()) touched.push_back(p);
}
void fence() {
  for (void* p : running->atomics) __tsan_acquire(p);
  running->atomics.clear();
  running->fenced = true;
}
#endif

// Runs every thread of the grid; what went wrong, or an empty string. The caller keeps the bounds:
// 1 to 1024 threads a block.
extern "C" const char* gpu_launch(const Kernel* kernel, const unsigned* grid, const unsigned* size,
                                  size_t dynamic_bytes, void** arguments, int schedule,
                                  int cooperative) {
  static std::string answer;
  Launch now{kernel, arguments, {grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]},
             dynamic_bytes, LATE && schedule % 2 == 1};
  launch = &now;
  const unsigned threads = size[0] * size[1] * size[2], blocks = grid[0] * grid[1] * grid[2];
  now.copies_early = schedule % 2;
  const bool greedy = schedule == 2 || schedule == 3, down = schedule == 1 || schedule == 3;
  std::mt19937 random(schedule);
  // A cluster's blocks stand side by side in the order, and run together.
  const unsigned cluster = kernel->cluster;
  std::vector<unsigned> order(blocks / cluster);
  for (unsigned i = 0; i < order.size(); i++) order[i] = down ? order.size() - 1 - i : i;
  if (schedule > 3) std::shuffle(order.begin(), order.end(), random);
#if defined(MODE_THREAD)
  host_fiber = __tsan_get_current_fiber();
  __tsan_release(&now.begin);
#endif

  const unsigned fitting = greedy ? 1 : std::max(1u, RESIDENT / threads / cluster);
  const unsigned together = cooperative ? blocks : cluster * fitting;
  std::vector<Block> resident(std::min(together, blocks));
  std::vector<Cluster> clusters(resident.size() / cluster);
  std::vector<Fiber*> turn;
  for (unsigned first = 0; first < blocks && !now.abandoned; first += together) {
    const unsigned n = std::min(together, blocks - first);
    turn.clear();
    for (unsigned k = 0; k < n; k++) {
      const unsigned rank = down ? cluster - 1 - k % cluster : k % cluster;
      Cluster& own = clusters[k / cluster];
      if (k % cluster == 0) own = Cluster{{}, std::vector<Block*>(cluster)};
      begin(resident[k], order[(first + k) / cluster] * cluster + rank, REUSE ? k : first + k);
      resident[k].cluster = &own;
      resident[k].rank = rank;
      own.blocks[rank] = &resident[k];
      own.barrier.live += threads;
      for (unsigned i = 0; i < threads; i++)
        turn.push_back(&resident[k].fibers[down ? threads - 1 - i : i]);
    }
    const size_t stretch = greedy ? threads : turn.size();
    for (bool moved = true; moved && !now.abandoned;) {
      if (schedule > 3) std::shuffle(turn.begin(), turn.end(), random);
      moved = false;
      for (size_t start = 0; start < turn.size(); start += stretch)
        for (bool again = true; again && !now.abandoned; again &= greedy) {
          again = false;
          for (size_t i = start; i < start + stretch && !now.abandoned; i++)
            again |= step(*turn[i]);
          moved |= again;
        }
    }
    for (unsigned k = 0; k < n; k++)
      for (Fiber& f : resident[k].fibers)
        if (!f.done && f.expects) {
          report("deadlock: " + name(f) + " waits at " + name(f.site) + " for " +
                 std::to_string(f.expects->bytes) + " bytes and " +
                 std::to_string(f.expects->pending) + " arrivals at an mbarrier");
          now.abandoned = true;
        } else if (!f.done && f.waits) {
          report("deadlock: " + name(f) + " waits at " + name(f.site) + " for " +
                 std::to_string(f.waits->live - f.waits->arrived) + " of " +
                 std::to_string(f.waits->live) + " threads, which wait elsewhere");
          now.abandoned = true;
        } else if (!f.done && f.counter) {
          report("deadlock: " + name(f) + " waits at " + name(f.site) + " for a counter at " +
                 std::to_string(*f.counter) + " to reach " + std::to_string(f.until) +
                 ", and nobody raises it");
          now.abandoned = true;
        }
    for (unsigned k = 0; k < n; k++) end(resident[k]);
  }
#if defined(MODE_THREAD)
  __tsan_acquire(&now.end);
  idle.insert(idle.end(), spent.begin(), spent.end());
  spent.clear();
#endif
  launch = nullptr;
  answer = now.error;
  return answer.c_str();
}

}  // namespace gpu
