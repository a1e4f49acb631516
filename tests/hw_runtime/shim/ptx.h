// The host in place of kernels/ptx.cuh: the threads of a block are fibers, run one at a time.
//
// A fiber runs until a barrier or a warp collective makes it wait for others; the last to arrive
// wakes them. Blocks run one after another. If every fiber that is left waits, the kernel has
// diverged around a barrier, and the launch says so instead of hanging. The order in which ready
// fibers run is drawn from a seed, so a result that hangs on the order of threads is found out.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;

#define ALL_LANES 0xffffffffu
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__
#define FORCE_INLINE inline
#define NO_INLINE
#define DYNAMIC_SHARED(name) u8* const name = shim::dynamic_shared
#define __align__(n) alignas(n)

struct Dim3 {
  u32 x = 1, y = 1, z = 1;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr u32 kStack = 64 << 10;
alignas(16) static u8 dynamic_shared[256 << 10];

struct Fiber {
  jmp_buf point;
  ucontext_t first;
  bool started = false, done = false;
};

struct Meeting {  // of the lanes of a warp, or of the threads of a block
  u32 arrived = 0;
  u64 slots[32], results[32];
};

static std::vector<Fiber> fibers;
static std::vector<u8> stacks;
static std::vector<Meeting> warps;
static Meeting block;
static std::vector<u32> ready;  // fibers that can run
static u32 current, alive, seed = 1;
static jmp_buf scheduler;
static ucontext_t home;
static std::function<void()> body;

inline u32 random_below(u32 n) {
  seed = seed * 1664525u + 1013904223u;
  return static_cast<u32>((static_cast<u64>(seed) * n) >> 32);
}

inline void enter() {
  body();
  fibers[current].done = true;
  alive--;
  _longjmp(scheduler, 1);
}

inline void wait() {
  if (_setjmp(fibers[current].point) == 0) _longjmp(scheduler, 1);
}

inline u32 warp_size(u32 warp) {
  const u32 first = warp * 32, left = blockDim.x - first;
  return left < 32 ? left : 32;
}

inline void sync_block() {
  if (++block.arrived < blockDim.x) return wait();
  block.arrived = 0;
  for (u32 i = 0; i < blockDim.x; i++)
    if (i != current) ready.push_back(i);
}

// Each lane gives a value; the last computes all results from all values.
template <typename Combine>
inline u64 meet(u64 value, Combine combine) {
  const u32 me = current, w = me / 32, n = warp_size(w);
  Meeting& meeting = warps[w];
  if (n != 32) {
    std::fprintf(stderr, "shim: a warp collective in a warp of %u threads\n", n);
    std::abort();
  }
  meeting.slots[me % 32] = value;
  if (++meeting.arrived < n) {
    wait();
  } else {
    meeting.arrived = 0;
    combine(meeting.slots, meeting.results);
    for (u32 i = w * 32; i < w * 32 + n; i++)
      if (i != me) ready.push_back(i);
  }
  return meeting.results[me % 32];  // read before this lane can arrive at the next meeting
}

inline int run_block(u32 threads) {
  if (fibers.size() < threads) {
    fibers.resize(threads);
    stacks.resize(static_cast<size_t>(threads) * kStack);
    warps.resize(threads / 32 + 1);
  }
  ready.clear();
  block.arrived = 0;
  for (Meeting& one : warps) one.arrived = 0;
  for (u32 i = 0; i < threads; i++) {
    fibers[i].started = fibers[i].done = false;
    ready.push_back(i);
  }
  alive = threads;
  // Shared memory holds anything before a kernel writes it.
  for (u32 i = 0; i < sizeof dynamic_shared; i += 61) dynamic_shared[i] = u8(random_below(256));
  while (!ready.empty()) {
    const u32 at = random_below(static_cast<u32>(ready.size()));
    current = ready[at];
    ready[at] = ready.back();
    ready.pop_back();
    threadIdx.x = current;
    if (_setjmp(scheduler) != 0) continue;
    Fiber& fiber = fibers[current];
    if (fiber.started) _longjmp(fiber.point, 1);
    fiber.started = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = &stacks[static_cast<size_t>(current) * kStack];
    fiber.first.uc_stack.ss_size = kStack;
    fiber.first.uc_link = &home;
    makecontext(&fiber.first, enter, 0);
    setcontext(&fiber.first);
  }
  return alive == 0 ? 0 : 1;  // 1: threads wait for others that are gone or wait elsewhere
}

inline int launch(u32 blocks, u32 threads, u32 shared, u32 order, std::function<void()> kernel) {
  if (shared > sizeof dynamic_shared) return 2;
  body = kernel;
  seed = order * 2654435761u + 1;
  gridDim.x = blocks;
  blockDim.x = threads;
  for (u32 b = 0; b < blocks; b++) {
    blockIdx.x = b;
    if (run_block(threads) != 0) return 1;
  }
  return 0;
}

}  // namespace shim

namespace hw {

inline u32 lane() { return threadIdx.x & 31u; }
inline u32 warp() { return threadIdx.x >> 5; }
inline void sync_block() { shim::sync_block(); }

template <typename Join>
inline u32 join(u32 value, Join pick) {
  return static_cast<u32>(shim::meet(value, [&](const u64* in, u64* out) {
    u32 all = static_cast<u32>(in[0]);
    for (int i = 1; i < 32; i++) all = pick(all, static_cast<u32>(in[i]));
    for (int i = 0; i < 32; i++) out[i] = all;
  }));
}
inline void sync_warp() {
  shim::meet(0, [](const u64*, u64*) {});
}
inline u32 warp_max(u32 value) {
  return join(value, [](u32 a, u32 b) { return a > b ? a : b; });
}
inline u32 warp_min(u32 value) {
  return join(value, [](u32 a, u32 b) { return a < b ? a : b; });
}
inline u32 warp_sum(u32 value) {
  return join(value, [](u32 a, u32 b) { return a + b; });
}
inline u32 ballot(bool value) {
  const u32 bit = value ? 1u << lane() : 0;
  return join(bit, [](u32 a, u32 b) { return a | b; });
}
inline int shuffle(int value, u32 from) {
  const u32 me = lane();
  (void)me;
  return static_cast<int>(shim::meet((static_cast<u64>(from & 31) << 32) | static_cast<u32>(value),
                                     [](const u64* in, u64* out) {
                                       for (int i = 0; i < 32; i++)
                                         out[i] = in[in[i] >> 32] & 0xffffffffu;
                                     }));
}
inline u32 shuffle_up(u32 value, u32 by) {
  return static_cast<u32>(shim::meet(value, [by](const u64* in, u64* out) {
    for (u32 i = 0; i < 32; i++) out[i] = i >= by ? in[i - by] : in[i];
  }));
}
inline u32 same_value(u32 value) {
  return static_cast<u32>(shim::meet(value, [](const u64* in, u64* out) {
    for (int i = 0; i < 32; i++) {
      out[i] = 0;
      for (int j = 0; j < 32; j++)
        if (in[j] == in[i]) out[i] |= 1ull << j;
    }
  }));
}
inline u32 count_bits(u32 value) { return static_cast<u32>(__builtin_popcount(value)); }

inline void add_shared(u32* at, u32 value) { *at += value; }
inline void add_shared(int* at, int value) { *at += value; }
inline void add_shared(u64* at, u64 value) { *at += value; }
inline void max_shared(u32* at, u32 value) { *at = value > *at ? value : *at; }
inline void or_shared(u32* at, u32 value) { *at |= value; }
inline void add_global(int* at, int value) { *at += value; }

}  // namespace hw
