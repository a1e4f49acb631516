// The host in place of kernels/ptx.cuh and ptx_copy.cuh, for kernels whose blocks wait for each
// other: all threads of all blocks of all ranks' launches are fibers, and whoever goes on next is
// drawn from a seed. Bulk copies belong to an engine that runs them later, in halves, in any order
// that their waits allow, so what a kernel does not wait for has often not happened yet.
// Memory is in order here: fences are not tested, waits are.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __restrict__
#define FORCE_INLINE inline
#define DYNAMIC_SHARED(name) u8* const name = shim::blocks[shim::now->block]->shared

struct Dim3 {
  u32 x = 1, y = 1, z = 1;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr u32 kStack = 64 << 10;

struct Group {  // bulk stores between two commits
  u32 open = 0;
};
struct Fiber {
  jmp_buf point;
  ucontext_t first;
  std::unique_ptr<u8[]> stack;
  bool started = false;
  u32 block, thread, grid;
  std::deque<std::shared_ptr<Group>> groups;
  std::shared_ptr<Group> group = std::make_shared<Group>();
  u64 given, got;
};
struct Meeting {
  std::vector<Fiber*> waiting;
};
struct Block {
  alignas(128) u8 shared[64 << 10];
  Meeting all, warps[32];
};
struct Copy {  // one half of a bulk copy
  u8* to;
  const u8* from;
  u32 bytes;
  u64* barrier;
  std::shared_ptr<Group> group;
};

static std::vector<std::unique_ptr<Block>> blocks;
static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<Fiber*> ready;
static std::vector<Copy> engine;
static Fiber* now;
static u32 alive;
static u64 seed = 1, steps, limit;
static u32 broken;    // which of a test's faults is in effect, 0: none
static u32 slowness;  // of the engine, drawn for each launch
static jmp_buf scheduler;
static ucontext_t home;
static std::function<void(u32)> body;

inline u32 below(u32 n) {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<u32>((seed >> 33) % n);
}
inline void enter() {
  body(now->grid);
  alive--;
  _longjmp(scheduler, 1);
}
inline void wait() {
  if (_setjmp(now->point) == 0) _longjmp(scheduler, 1);
}
inline void yield() {
  ready.push_back(now);
  wait();
}
inline void advance(u64* barrier, u32 bytes) {  // low half: bytes to come, high half: phase
  *barrier -= bytes;
  if ((*barrier & 0xffffffffu) == 0) *barrier += 1ull << 32;
}
inline void run_copy() {
  const u32 at = below(static_cast<u32>(engine.size()));
  Copy copy = engine[at];
  engine[at] = engine.back();
  engine.pop_back();
  std::memcpy(copy.to, copy.from, copy.bytes);
  if (copy.barrier) advance(copy.barrier, copy.bytes);
  if (copy.group) copy.group->open--;
}
inline void begin_copy(void* to, const void* from, u32 bytes, u64* barrier) {
  const u32 half = bytes / 32 * 16;
  for (u32 part = 0; part < 2; part++) {
    Copy copy{static_cast<u8*>(to) + part * half, static_cast<const u8*>(from) + part * half,
              part ? bytes - half : half, barrier, barrier ? nullptr : now->group};
    if (copy.bytes == 0) continue;
    if (copy.group) copy.group->open++;
    engine.push_back(copy);
  }
}
template <typename Combine>
inline u64 meet(Meeting& meeting, u32 size, u64 value, Combine combine) {
  now->given = value;
  meeting.waiting.push_back(now);
  if (meeting.waiting.size() < size) {
    wait();
  } else {
    combine(meeting.waiting);
    for (Fiber* one : meeting.waiting)
      if (one != now) ready.push_back(one);
    meeting.waiting.clear();
  }
  return now->got;
}
inline void resume(Fiber* fiber) {
  now = fiber;
  threadIdx.x = fiber->thread;
  blockIdx.x = fiber->block % gridDim.x;
  if (_setjmp(scheduler) != 0) return;
  if (fiber->started) _longjmp(fiber->point, 1);
  fiber->started = true;
  getcontext(&fiber->first);
  fiber->first.uc_stack.ss_sp = fiber->stack.get();
  fiber->first.uc_stack.ss_size = kStack;
  fiber->first.uc_link = &home;
  makecontext(&fiber->first, enter, 0);
  setcontext(&fiber->first);
}
// Launch `grids` kernels at once. 0; 1: threads wait where nobody comes; 2: too many steps.
inline int launch(u32 grids, u32 count, u32 threads, u32 order, u64 most,
                  std::function<void(u32)> kernel) {
  blocks.clear(), fibers.clear(), ready.clear(), engine.clear();
  body = kernel, seed = order * 2654435761ull + 1, steps = 0, limit = most;
  slowness = 2u << below(10);
  gridDim.x = count, blockDim.x = threads;
  for (u32 b = 0; b < grids * count; b++) {
    blocks.push_back(std::make_unique<Block>());
    std::memset(blocks.back()->shared, 0xC3, sizeof blocks.back()->shared);
    for (u32 t = 0; t < threads; t++) {
      fibers.push_back(std::make_unique<Fiber>());
      Fiber& fiber = *fibers.back();
      fiber.stack.reset(new u8[kStack]);
      fiber.block = b, fiber.thread = t, fiber.grid = b / count;
      ready.push_back(&fiber);
    }
  }
  alive = static_cast<u32>(fibers.size());
  while (!ready.empty() || !engine.empty()) {
    if (++steps > limit) return 2;
    if (!engine.empty() && (ready.empty() || below(slowness) == 0)) {
      run_copy();
      continue;
    }
    const u32 at = below(static_cast<u32>(ready.size()));
    Fiber* fiber = ready[at];
    ready[at] = ready.back();
    ready.pop_back();
    resume(fiber);
  }
  return alive == 0 ? 0 : 1;
}

}  // namespace shim

extern "C" inline __attribute__((used)) void grid_break(u32 which) { shim::broken = which; }

namespace hw {

inline u32 lane() { return threadIdx.x & 31u; }
inline u32 warp() { return threadIdx.x >> 5; }
inline void sync_block() {
  shim::meet(shim::blocks[shim::now->block]->all, blockDim.x, 0, [](auto&) {});
}
template <typename Combine>
inline u64 meet_warp(u64 value, Combine combine) {
  return shim::meet(shim::blocks[shim::now->block]->warps[warp()], 32, value, combine);
}
inline void sync_warp() {
  meet_warp(0, [](auto&) {});
}
inline u32 warp_min(u32 value) {
  return static_cast<u32>(meet_warp(value, [](auto& lanes) {
    u64 least = lanes[0]->given;
    for (auto* one : lanes) least = one->given < least ? one->given : least;
    for (auto* one : lanes) one->got = least;
  }));
}
inline u32 ballot(bool value) {
  return static_cast<u32>(meet_warp(value, [](auto& lanes) {
    u64 bits = 0;
    for (auto* one : lanes) bits |= one->given << (one->thread & 31u);
    for (auto* one : lanes) one->got = bits;
  }));
}
inline int shuffle(int value, u32 from) {
  return static_cast<int>(meet_warp(static_cast<u32>(value), [from](auto& lanes) {
    u64 sent = 0;
    for (auto* one : lanes)
      if ((one->thread & 31u) == from) sent = one->given;
    for (auto* one : lanes) one->got = sent;
  }));
}
inline u32 count_bits(u32 value) { return static_cast<u32>(__builtin_popcount(value)); }
inline void add_global(int* at, int value) { *at += value; }

inline void barrier_init(u64* barrier) { *barrier = 0; }
inline void barrier_init_done() {}
inline void barrier_expect(u64* barrier, u32 bytes) {
  *barrier += bytes;
  if (bytes == 0) shim::advance(barrier, 0);
}
inline bool barrier_done(u64* barrier, u32 parity) { return (*barrier >> 32 & 1) != parity; }
inline void bulk_load(void* shared, const void* global, u32 bytes, u64* barrier) {
  shim::begin_copy(shared, global, bytes, barrier);
  shim::yield();
}
inline void bulk_store(void* global, const void* shared, u32 bytes) {
  shim::begin_copy(global, shared, bytes, nullptr);
  shim::yield();
}
inline void bulk_commit() {
  shim::now->groups.push_back(shim::now->group);
  shim::now->group = std::make_shared<shim::Group>();
}
template <int Pending>
inline void bulk_wait() {
  auto& groups = shim::now->groups;
  for (;;) {
    // Groups complete in order: one behind an open one does not count as complete.
    while (!groups.empty() && groups.front()->open == 0) groups.pop_front();
    if (groups.size() <= Pending) return;
    shim::yield();
  }
}
inline void fence_copy_engine() {}
inline void fence_system() {}
inline u64 acquire_system(const u64* at) {
  shim::yield();
  return *at;
}
inline void release_system(u64* at, u64 value) {
  shim::yield();
  *at = value;
}
inline u32 add_gpu(u32* at, u32 value) {
  shim::yield();
  const u32 before = *at;
  *at += value;
  return before;
}
inline u64 read_volatile(const u64* at) { return *at; }
inline u64 nanoseconds() { return shim::steps; }
inline void pause(u32) { shim::yield(); }

}  // namespace hw
