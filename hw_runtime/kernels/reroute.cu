// Reroute: quotas become numbers per source, and numbers become the instance of every token.
//
// The split is the one of ultraep_sim/planning/reroute.py, the choice of tokens the one of
// hw_runtime/reroute.py: the same integers. What those do one after another is done side by side
// here: the north-west corner rule fills cell (s, j) with the overlap of two intervals, the left
// over demand of source s and the left over room of instance j, each laid end to end.
#include "ptx.cuh"

namespace hw {

// a * b / c for values below 2^31; a 64-bit division costs several of 32 bits.
__device__ FORCE_INLINE u32 scaled(u32 a, u32 b, u32 c) {
  const u64 product = static_cast<u64>(a) * b;
  if (product >> 32 == 0) return static_cast<u32>(product) / c;
  return static_cast<u32>(product / c);
}

// Exclusive prefix sum in place, by one warp.
__device__ void lay_out(u32* values, int n) {
  u32 carry = 0;
  for (int base = 0; base < n; base += 32) {
    const int at = base + static_cast<int>(lane());
    const u32 mine = at < n ? values[at] : 0;
    u32 sum = mine;
#pragma unroll
    for (u32 by = 1; by < 32; by *= 2) {
      const u32 other = shuffle_up(sum, by);
      if (lane() >= by) sum += other;
    }
    if (at < n) values[at] = carry + sum - mine;
    carry += warp_sum(mine);
  }
}

__device__ FORCE_INLINE u32 overlap(u32 a, u32 length_a, u32 b, u32 length_b) {
  const u32 low = a > b ? a : b;
  const u32 high = a + length_a < b + length_b ? a + length_a : b + length_b;
  return high > low ? high - low : 0;
}

// The rule of hw_runtime/reroute.py for place `p` of `n` tokens: which instance gets this one.
__device__ int instance_of(u32 p, u32 n, int begin, int end, const int* split) {
  if (end - begin == 1) return begin;
  for (int i = begin; i < end; i++) {
    if (n == 0) return -1;  // more tokens than the plan knows
    const u32 mine = static_cast<u32>(split[i]);
    const u32 before = scaled(p, mine, n);
    if (scaled(p + 1, mine, n) > before) return i;
    p -= before;
    n -= mine;
  }
  return -1;
}

struct Table {  // instances and their physical numbers, see hw_runtime/reroute.py
  const int* offsets;   // [experts + 1]
  const int* rank;      // [instances]
  const int* slot;      // [instances], -1 for a main
  const int* main_row;  // [experts]
  int mains_room, per_rank;
};

__device__ FORCE_INLINE int physical(const Table& table, int expert, int instance) {
  const int slot = table.slot[instance];
  const int row = slot < 0 ? table.main_row[expert] : table.mains_room + slot;
  return table.rank[instance] * table.per_rank + row;
}

// Place of every pair of a chunk among those of its expert, then its instance. A warp takes a run
// of consecutive pairs, 32 at a time; lanes with the same expert number themselves by lane.
template <typename Id>
__device__ FORCE_INLINE void choose(const Id* ids, i64 pairs, int chunk_pairs, int experts,
                                    const int* before, const int* totals, const int* split,
                                    const Table& table, int* instance, Id* physical_ids) {
  DYNAMIC_SHARED(memory);
  u16* seen = reinterpret_cast<u16*>(memory);  // [warps, experts]: of this warp, so far
  const int me = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const int warps = step / 32, run = chunk_pairs / warps;
  for (int i = me; i < warps * experts; i += step) seen[i] = 0;
  sync_block();
  const i64 chunk = static_cast<i64>(blockIdx.x) * chunk_pairs;
  const i64 begin = chunk + static_cast<i64>(warp()) * run;
  u16* mine = seen + static_cast<int>(warp()) * experts;
  // First the counts of every warp, then, with those of the warps before it, the places.
  for (int at = 0; at < run; at += 32) {
    const i64 pair = begin + at + lane();
    const i64 id = pair < pairs ? static_cast<i64>(ids[pair]) : -1;
    const bool valid = id >= 0 && id < experts;
    const u32 same = same_value(valid ? static_cast<u32>(id) : ~0u);
    if (valid && (same & ((1u << lane()) - 1)) == 0)
      mine[id] = static_cast<u16>(mine[id] + count_bits(same));
    sync_warp();
  }
  sync_block();
  for (int e = me; e < experts; e += step) {
    u32 sum = 0;
    for (int w = 0; w < warps; w++) {
      const u32 here = seen[w * experts + e];
      seen[w * experts + e] = static_cast<u16>(sum);
      sum += here;
    }
  }
  sync_block();
  for (int at = 0; at < run; at += 32) {
    const i64 pair = begin + at + lane();
    const i64 id = pair < pairs ? static_cast<i64>(ids[pair]) : -1;
    const bool valid = id >= 0 && id < experts;
    const u32 same = same_value(valid ? static_cast<u32>(id) : ~0u);
    const u32 lower = same & ((1u << lane()) - 1);
    int found = -1, number = -1;
    if (valid) {
      const int expert = static_cast<int>(id);
      const u32 place = static_cast<u32>(before[static_cast<i64>(blockIdx.x) * experts + expert]) +
                        mine[expert] + count_bits(lower);
      found = instance_of(place, static_cast<u32>(totals[expert]), table.offsets[expert],
                          table.offsets[expert + 1], split);
      if (found >= 0) number = physical(table, expert, found);
    }
    sync_warp();  // all lanes have read their expert's count
    if (valid && lower == 0) mine[id] = static_cast<u16>(mine[id] + count_bits(same));
    sync_warp();
    if (pair < pairs) {
      if (instance) instance[pair] = found;
      physical_ids[pair] = static_cast<Id>(number);
    }
  }
}

template <typename Word>
__device__ FORCE_INLINE void spread(const Word* values, const int* instance, int experts,
                                    int columns, const Table& table, Word* out) {
  const i64 token = blockIdx.x;
  const int me = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int c = me; c < columns; c += step) out[token * columns + c] = 0;
  sync_block();
  for (int e = me; e < experts; e += step) {
    const int found = instance[token * experts + e];
    if (found >= 0)
      out[token * columns + physical(table, e, found)] = values[token * experts + e];
  }
}

template <typename Word>
__device__ FORCE_INLINE void gather(const Word* grad, const int* instance, int experts,
                                    int columns, const Table& table, Word* out) {
  const i64 token = blockIdx.x;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    const int found = instance[token * experts + e];
    out[token * experts + e] =
        found >= 0 ? grad[token * columns + physical(table, e, found)] : static_cast<Word>(0);
  }
}

}  // namespace hw

// One block an expert. loads [sources, stride]; offsets, rank, quota as the planner grouped them,
// an expert's instances on different ranks; split [sources, columns], one column an instance. Shared
// memory: three words a source, three for each of the most instances an expert can have.
extern "C" __global__ void reroute_split(const int* loads, int sources, int stride,
                                         const int* offsets, const int* rank, const int* quota,
                                         int locality, int columns, int* split) {
  using namespace hw;
  DYNAMIC_SHARED(memory);
  __shared__ u32 total;
  const int me = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const int expert = static_cast<int>(blockIdx.x);
  const int first = offsets[expert], width = offsets[expert + 1] - first;
  if (width == 1) {
    for (int s = me; s < sources; s += step)
      split[static_cast<i64>(s) * columns + first] = loads[static_cast<i64>(s) * stride + expert];
    return;
  }
  u32* demand = reinterpret_cast<u32*>(memory);
  u32* given = demand + sources;  // demand met by the floors
  u32* row = given + sources;     // where its left over demand begins
  u32* room = row + sources;
  u32* taken = room + width;
  u32* column = taken + width;
  for (int s = me; s < sources; s += step) {
    demand[s] = static_cast<u32>(loads[static_cast<i64>(s) * stride + expert]);
    given[s] = 0;
  }
  if (me == 0) total = 0;
  sync_block();
  for (int j = me; j < width; j += step) {
    const u32 mine = static_cast<u32>(quota[first + j]);
    u32 own = 0;
    if (locality) {  // no other thread has this rank
      const int host = rank[first + j];
      own = demand[host] < mine ? demand[host] : mine;
      demand[host] -= own;
    }
    room[j] = mine - own;
    taken[j] = 0;
  }
  sync_block();
  for (int s = me; s < sources; s += step) add_shared(&total, demand[s]);
  sync_block();
  const int cells = sources * width;
  for (int cell = me; cell < cells; cell += step) {
    const int s = cell / width, j = cell % width;
    u32 part = 0;
    if (total > 0 && demand[s] > 0) part = scaled(demand[s], room[j], total);
    if (part > 0) {
      add_shared(&given[s], part);
      add_shared(&taken[j], part);
    }
    const u32 own = locality && rank[first + j] == s
                        ? static_cast<u32>(quota[first + j]) - room[j] : 0;
    split[static_cast<i64>(s) * columns + first + j] = static_cast<int>(own + part);
  }
  sync_block();
  for (int s = me; s < sources; s += step) row[s] = demand[s] - given[s];
  for (int j = me; j < width; j += step) column[j] = room[j] - taken[j];
  sync_block();
  if (warp() == 0) lay_out(row, sources);
  if (warp() == 1) lay_out(column, width);
  sync_block();
  for (int cell = me; cell < cells; cell += step) {  // the same cells as above
    const int s = cell / width, j = cell % width;
    const u32 more = overlap(row[s], demand[s] - given[s], column[j], room[j] - taken[j]);
    if (more > 0) split[static_cast<i64>(s) * columns + first + j] += static_cast<int>(more);
  }
}

// One block a chunk, 256 threads. before [chunks, experts] and totals [experts] from the histogram,
// split [instances]: this source's row. instance [pairs] may be null. Pairs that are padding or out
// of range become -1.
extern "C" __global__ void reroute_topk_i16(const short* ids, i64 pairs, int chunk_pairs,
                                            int experts, const int* before, const int* totals,
                                            const int* split, const int* offsets, const int* rank,
                                            const int* slot, const int* main_row, int mains_room,
                                            int per_rank, int* instance, short* out) {
  hw::choose(ids, pairs, chunk_pairs, experts, before, totals, split,
             {offsets, rank, slot, main_row, mains_room, per_rank}, instance, out);
}

extern "C" __global__ void reroute_topk_i32(const int* ids, i64 pairs, int chunk_pairs,
                                            int experts, const int* before, const int* totals,
                                            const int* split, const int* offsets, const int* rank,
                                            const int* slot, const int* main_row, int mains_room,
                                            int per_rank, int* instance, int* out) {
  hw::choose(ids, pairs, chunk_pairs, experts, before, totals, split,
             {offsets, rank, slot, main_row, mains_room, per_rank}, instance, out);
}

extern "C" __global__ void reroute_topk_i64(const i64* ids, i64 pairs, int chunk_pairs,
                                            int experts, const int* before, const int* totals,
                                            const int* split, const int* offsets, const int* rank,
                                            const int* slot, const int* main_row, int mains_room,
                                            int per_rank, int* instance, i64* out) {
  hw::choose(ids, pairs, chunk_pairs, experts, before, totals, split,
             {offsets, rank, slot, main_row, mains_room, per_rank}, instance, out);
}

// chosen [tokens, experts]; instance [tokens, experts], -1 where not chosen. One block a chunk.
extern "C" __global__ void reroute_dense(const u8* chosen, int tokens, int chunk_tokens,
                                         int experts, const int* before, const int* totals,
                                         const int* split, const int* offsets, int* instance) {
  const int begin = static_cast<int>(blockIdx.x) * chunk_tokens;
  const int end = begin + chunk_tokens < tokens ? begin + chunk_tokens : tokens;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    u32 place = static_cast<u32>(before[static_cast<i64>(blockIdx.x) * experts + e]);
    const u32 total = static_cast<u32>(totals[e]);
    for (int t = begin; t < end; t++) {
      const i64 at = static_cast<i64>(t) * experts + e;
      int found = -1;
      if (chosen[at] != 0)
        found = hw::instance_of(place++, total, offsets[e], offsets[e + 1], split);
      instance[at] = found;
    }
  }
}

// One block a token: values [tokens, experts] to out [tokens, columns] by physical expert, and the
// gather of their gradients. Words are moved, not computed with.
extern "C" __global__ void reroute_spread_32(const u32* values, const int* instance, int experts,
                                             int columns, const int* offsets, const int* rank,
                                             const int* slot, const int* main_row, int mains_room,
                                             int per_rank, u32* out) {
  hw::spread(values, instance, experts, columns,
             {offsets, rank, slot, main_row, mains_room, per_rank}, out);
}

extern "C" __global__ void reroute_spread_16(const u16* values, const int* instance, int experts,
                                             int columns, const int* offsets, const int* rank,
                                             const int* slot, const int* main_row, int mains_room,
                                             int per_rank, u16* out) {
  hw::spread(values, instance, experts, columns,
             {offsets, rank, slot, main_row, mains_room, per_rank}, out);
}

extern "C" __global__ void reroute_gather_32(const u32* grad, const int* instance, int experts,
                                             int columns, const int* offsets, const int* rank,
                                             const int* slot, const int* main_row, int mains_room,
                                             int per_rank, u32* out) {
  hw::gather(grad, instance, experts, columns,
             {offsets, rank, slot, main_row, mains_room, per_rank}, out);
}

extern "C" __global__ void reroute_gather_16(const u16* grad, const int* instance, int experts,
                                             int columns, const int* offsets, const int* rank,
                                             const int* slot, const int* main_row, int mains_room,
                                             int per_rank, u16* out) {
  hw::gather(grad, instance, experts, columns,
             {offsets, rank, slot, main_row, mains_room, per_rank}, out);
}
