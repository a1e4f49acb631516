// Stream tiles of replica weights: each block is one warp that pulls the next entry of its rank's
// list, loads the tile into shared memory once and stores it to every destination, kStages tiles
// deep, by the bulk copy engine. Relays wait for the ready flag of the chunk they forward.
//
// No dead lock: entries are pulled in list order, a tile waits only for tiles of entries earlier in
// the list, and a block that has to wait first stores and publishes everything it holds. So the
// earliest entry that is not stored can always go on, whatever blocks are resident.
//
// Ordering: a store is complete (bulk_wait), then counted (acquire-release on this GPU); whoever
// counts the last tile of a chunk releases the flag, system-wide, with the epoch in it. A reader
// acquires the flag, then fences the copy engine. Flags and epochs only grow; counters that a launch
// uses are zero again when it ends, so a CUDA graph can be replayed.
#include "ptx_copy.cuh"
#include "tiles.cuh"

constexpr int kStages = 6;
constexpr int kStoring = 3;  // of them, at most so many are being stored; the others load
constexpr u64 kTimeout = 1;

struct StreamState {
  u64 epoch;     // distributions that this rank has finished
  u64 barriers;  // barriers it has come to
  u64 error;     // kTimeout, sticky; the host reads it
  u64 where;     // what was waited for: slot x chunks + chunk, or a rank
  u32 next;      // the next entry to pull
  u32 finished;  // blocks that are through
};

struct StreamArgs {
  TaskArrays tasks;
  i64 list;                // a rank, or `ranks` for all of them on one GPU
  i64 copy_bytes, tile_bytes, slot_stride;
  u8* const* mains;        // [experts], of this process; others are not read
  u8* const* slots;        // [ranks], of this set
  u64* const* ready;       // [ranks], flags [slots, chunks] of this set
  u32* pending;            // [capacity, chunks], zero between launches
  StreamState* state;
  u64* const* arrived;     // [ranks], barrier words [ranks]
  u64 limit_ns;            // of one wait
  u64 jitter;              // 0, or the seed of random delays that hunt races
};

namespace {

struct Tile {
  const u8* from;
  i64 begin;
  u32 bytes, bulk;  // bulk: leading bytes that the copy engine moves
  int task, chunk;
};

constexpr u32 kHead = 512;  // barriers and tiles in flight, before the stages
static_assert(kStages * (sizeof(u64) + sizeof(Tile)) <= kHead, "head of shared memory");

__device__ i64 chunks(const StreamArgs& a) {
  return (a.tasks.tiles + a.tasks.chunk_tiles - 1) / a.tasks.chunk_tiles;
}

__device__ FORCE_INLINE u8* address(const StreamArgs& a, i64 copy) {
  return a.slots[a.tasks.copy_rank[copy]] + a.tasks.copy_slot[copy] * a.slot_stride;
}

__device__ Tile describe(const StreamArgs& a, i64 k) {
  const Entry entry = list_entry(a.tasks, static_cast<int>(a.list), k);
  const int slot = a.tasks.task_slot[entry.task];
  Tile tile;
  tile.task = entry.task;
  tile.chunk = static_cast<int>(entry.tile / a.tasks.chunk_tiles);
  tile.begin = entry.tile * a.tile_bytes;
  const i64 left = a.copy_bytes - tile.begin;
  tile.bytes = static_cast<u32>(left < a.tile_bytes ? left : a.tile_bytes);
  const u8* base = slot < 0 ? a.mains[a.tasks.task_expert[entry.task]]
                            : a.slots[a.tasks.task_source[entry.task]] + slot * a.slot_stride;
  tile.from = base + tile.begin;
  // Slots are aligned; a main that the caller holds, or a tile size, may not be.
  const u64 odd = (reinterpret_cast<u64>(tile.from) | static_cast<u64>(tile.begin)) & 15;
  tile.bulk = odd ? 0 : tile.bytes & ~15u;
  return tile;
}

__device__ void jitter(const StreamArgs& a, u64 salt) {
  if (a.jitter == 0) return;
  u64 x = (a.jitter + salt) * 0x9E3779B97F4A7C15ull;
  x ^= x >> 29;
  hw::pause(static_cast<u32>((x * 0xBF58476D1CE4E5B9ull) >> 52));  // up to 4 us
}

__device__ const u64* flag_of(const StreamArgs& a, const Tile& tile) {
  const int rank = a.tasks.task_source[tile.task], slot = a.tasks.task_slot[tile.task];
  return a.ready[rank] + slot * chunks(a) + tile.chunk;
}

// Whether a word has come to `least`. Waits at most limit_ns if `wait`; then notes the error and says
// yes, so that a launch ends.
__device__ bool come_to(const StreamArgs& a, const u64* word, u64 least, u64 where, bool wait) {
  int there = 0;
  const u64 start = wait ? hw::nanoseconds() : 0;
  for (;;) {
    there = hw::acquire_system(word) >= least;
    if (there || !wait) break;
    if (hw::read_volatile(&a.state->error)) {
      there = 1;  // somebody has given up: do not wait for what will not come
    } else if (hw::nanoseconds() - start > a.limit_ns) {
      a.state->where = where;
      a.state->error = kTimeout;
      there = 1;
    }
    if (there) break;
    hw::pause(32);
  }
  if (there) hw::fence_copy_engine();
  return there != 0;
}

// Lane 0 looks, all lanes know.
__device__ bool reached(const StreamArgs& a, const u64* word, u64 least, u64 where, bool wait) {
  int there = 0;
  if (hw::lane() == 0) there = come_to(a, word, least, where, wait);
  return hw::shuffle(there, 0) != 0;
}

__device__ void copy_bytes(u8* to, const u8* from, u32 bytes) {
  for (u32 i = hw::lane(); i < bytes; i += 32) to[i] = from[i];
}

// Store a loaded tile to every destination: one bulk store each, odd bytes by the lanes.
__device__ void store(const StreamArgs& a, const Tile& tile, const u8* stage) {
  const i64 end = a.tasks.copy_offsets[tile.task + 1];
  for (i64 copy = a.tasks.copy_offsets[tile.task]; copy < end; copy++) {
    u8* to = address(a, copy) + tile.begin;
    if (tile.bulk && hw::lane() == 0) hw::bulk_store(to, stage, tile.bulk);
    copy_bytes(to + tile.bulk, tile.from + tile.bulk, tile.bytes - tile.bulk);
  }
  if (hw::lane() == 0) hw::bulk_commit();
}

// A tile is whole everywhere: count it, and raise the flags of its chunk if it was the last.
__device__ void publish(const StreamArgs& a, const Tile& tile, u64 epoch) {
  hw::sync_warp();  // the odd bytes of all lanes come before what lane 0 releases
  if (hw::lane() == 0) {
    const i64 first = tile.chunk * a.tasks.chunk_tiles, left = a.tasks.tiles - first;
    const u32 all = static_cast<u32>(left < a.tasks.chunk_tiles ? left : a.tasks.chunk_tiles);
    u32* counter = a.pending + tile.task * chunks(a) + tile.chunk;
    jitter(a, epoch * 131 + reinterpret_cast<u64>(counter));
    hw::fence_copy_engine();
    if (hw::add_gpu(counter, 1) + 1 == all) {
      *counter = 0;
      // Who gave up waiting has loaded what was never whole: nobody may take it for a replica.
      const bool whole = hw::read_volatile(&a.state->error) == 0;
      const i64 end = a.tasks.copy_offsets[tile.task + 1];
      for (i64 copy = a.tasks.copy_offsets[tile.task]; whole && copy < end; copy++) {
        const i64 at = a.tasks.copy_slot[copy] * chunks(a) + tile.chunk;
        hw::release_system(a.ready[a.tasks.copy_rank[copy]] + at, epoch);
      }
    }
  }
  hw::sync_warp();
}

// Wait for the replicas that this rank receives; the blocks share the flags among them.
__device__ void await_own(const StreamArgs& a, u64 epoch) {
  if (a.list == a.tasks.ranks) return;  // all ranks' tiles were stored by this very launch
  const i64 copies = a.tasks.counts[1];
  for (i64 copy = 0; copy < copies; copy++) {
    if (a.tasks.copy_rank[copy] != a.list) continue;
    const i64 row = a.tasks.copy_slot[copy] * chunks(a);
    for (i64 chunk = blockIdx.x; chunk < chunks(a); chunk += gridDim.x) {
      reached(a, a.ready[a.list] + row + chunk, epoch, static_cast<u64>(row + chunk), true);
    }
  }
}

struct Worker {
  const StreamArgs& a;
  u64* full;    // [kStages] barriers: the tile of a stage has been loaded
  Tile* tiles;  // [kStages]
  u8* stages;
  u32 stage_bytes;
  u64 epoch;
  u32 loaded = 0, stored = 0, published = 0;

  __device__ void load(const Tile& tile) {
    const u32 s = loaded++ % kStages;
    if (hw::lane() == 0) {
      tiles[s] = tile;
      hw::barrier_expect(full + s, tile.bulk);
      if (tile.bulk) hw::bulk_load(stages + s * stage_bytes, tile.from, tile.bulk, full + s);
    }
    hw::sync_warp();
  }

  __device__ void store_next() {
    const u32 s = stored % kStages, parity = stored / kStages & 1;
    stored++;
    while (!hw::barrier_done(full + s, parity)) hw::pause(20);
    store(a, tiles[s], stages + s * stage_bytes);
  }

  __device__ void publish_next() { publish(a, tiles[published++ % kStages], epoch); }

  __device__ void drain() {
    while (stored < loaded) store_next();
    if (hw::lane() == 0) hw::bulk_wait<0>();
    while (published < stored) publish_next();
  }
};

__device__ i64 pull(const StreamArgs& a) {
  int next = 0;
  if (hw::lane() == 0) next = static_cast<int>(hw::add_gpu(&a.state->next, 1));
  return hw::shuffle(next, 0);
}

}  // namespace

// Grid: any number of one-warp blocks. Dynamic shared memory: 512 + 6 x (tile_bytes rounded up to
// 128).
extern "C" __global__ void __launch_bounds__(32) stream_tiles(const StreamArgs* args) {
  const StreamArgs& a = *args;
  DYNAMIC_SHARED(shared);
  const u32 stage_bytes = (static_cast<u32>(a.tile_bytes) + 127u) & ~127u;
  u64* full = reinterpret_cast<u64*>(shared);
  Worker worker{a,     full, reinterpret_cast<Tile*>(full + kStages), shared + kHead, stage_bytes,
                a.state->epoch + 1};
  if (hw::lane() == 0) {
    for (int s = 0; s < kStages; s++) hw::barrier_init(full + s);
    hw::barrier_init_done();
  }
  hw::sync_warp();
  const i64 entries = list_entries(a.tasks, static_cast<int>(a.list));
  for (i64 k = pull(a); k < entries; k = pull(a)) {
    const Tile tile = describe(a, k);
    if (a.tasks.task_wait[tile.task] >= 0 &&
        !reached(a, flag_of(a, tile), worker.epoch, 0, false)) {
      worker.drain();  // nobody may wait for what a waiting block holds
      const u64 where = static_cast<u64>(a.tasks.task_slot[tile.task] * chunks(a) + tile.chunk);
      reached(a, flag_of(a, tile), worker.epoch, where, true);
    }
    if (worker.stored - worker.published == kStoring) {
      if (hw::lane() == 0) hw::bulk_wait<kStoring - 1>();
      worker.publish_next();
    }
    worker.load(tile);
    if (worker.loaded - worker.stored > kStages - kStoring) worker.store_next();
  }
  worker.drain();
  await_own(a, worker.epoch);
  if (hw::lane() == 0 && hw::add_gpu(&a.state->finished, 1) == gridDim.x - 1) {
    a.state->finished = a.state->next = 0;  // the last block leaves the state of a new launch
    a.state->epoch = worker.epoch;
  }
}

// Come to the barrier and wait for every rank: nobody reads or writes what came before.
// One block of one warp.
extern "C" __global__ void __launch_bounds__(32) rank_barrier(const StreamArgs* args) {
  const StreamArgs& a = *args;
  const u64 turn = a.state->barriers + 1;
  hw::sync_warp();
  hw::fence_copy_engine();
  hw::fence_system();
  for (i64 r = hw::lane(); r < a.tasks.ranks; r += 32)
    hw::release_system(a.arrived[r] + a.list, turn);
  hw::sync_warp();
  // The lanes poll side by side: one after another would cost a memory access a rank.
  for (i64 r = hw::lane(); r < a.tasks.ranks; r += 32)
    come_to(a, a.arrived[a.list] + r, turn, static_cast<u64>(r), true);
  hw::sync_warp();
  if (hw::lane() == 0) a.state->barriers = turn;
}
