// What planner kernels share: a record's loads on the way in, its instances on the way out.
#pragma once
#include "oracle.cuh"

namespace hw {

constexpr i64 TARGET_SCALE = 10000;
constexpr i64 MAX_TOTAL = 0x7fffffff;
constexpr int MAX_RANKS = 256;

enum Status { OK = 0, NEGATIVE_LOAD = 1, TOTAL_TOO_LARGE = 2 };

struct Totals {  // in shared memory
  u64 total;
  u32 bad, large;
};

struct Result {  // of all records, in global memory
  i64* header;
  int *expert, *rank, *quota, *offsets, *instance_rank, *instance_slot, *instance_quota;
};

__device__ FORCE_INLINE i64 warp_max64(i64 value) {  // of values from 0 up
  const u32 high = static_cast<u32>(value >> 32);
  const u32 top = warp_max(high);
  const u32 low = warp_max(high == top ? static_cast<u32>(value) : 0u);
  return static_cast<i64>((static_cast<u64>(top) << 32) | low);
}

// Sum the sources into `load`, which is zero; say in `s` what is wrong with them.
__device__ void sum_sources(const int* loads, int sources, int stride, int experts, int* load,
                            Totals& s) {
  // Threads share a column if there are more of them than experts.
  const int threads = static_cast<int>(blockDim.x), me = static_cast<int>(threadIdx.x);
  const int groups = threads / experts > 1 ? threads / experts : 1;
  const int span = (sources + groups - 1) / groups;
  u64 sum = 0;
  bool negative = false, large = false;
  for (int item = me; item < groups * experts; item += threads) {
    const int expert = item % experts, from = item / experts * span;
    const int to = from + span < sources ? from + span : sources;
    i64 part = 0;
#pragma unroll 8
    for (int source = from; source < to; source++) {
      const int one = loads[static_cast<i64>(source) * stride + expert];
      negative |= one < 0;
      part += one;
    }
    if (part < 0 || part > MAX_TOTAL) {  // refused; keeps what follows in range
      large = true;
      part = 0;
    }
    sum += static_cast<u64>(part);
    add_shared(&load[expert], static_cast<int>(part));
  }
  if (negative) s.bad = NEGATIVE_LOAD;
  if (large && !negative) s.large = 1;
  // A thread sums at most a few thousand parts: below 2^50, so two halves fit 32-bit reductions.
  const u32 low = warp_sum(static_cast<u32>(sum & 0x3ffffff));
  const u32 high = warp_sum(static_cast<u32>(sum >> 26));
  if (lane() == 0) add_shared(&s.total, (static_cast<u64>(high) << 26) + low);
}

// The block reads a record into `load` and `rank_load`, both zero before.
__device__ void read_record(const int* loads, int sources, int stride, const int* home,
                            int experts, int* load, int* rank_load, Totals& s) {
  sum_sources(loads, sources, stride, experts, load, s);
  sync_block();
  if (threadIdx.x == 0 && s.bad == OK && (s.large || s.total > static_cast<u64>(MAX_TOTAL)))
    s.bad = TOTAL_TOO_LARGE;
  const int step = static_cast<int>(blockDim.x);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += step)
    add_shared(&rank_load[home[e]], load[e]);
  sync_block();
}

// Group instances by expert, mains first; slots of a rank in the order they were opened.
__device__ void group(const Replicas& plan, int n, const int* load, const int* home, int experts,
                      int* offsets, int* rank, int* slot, int* quota) {
  const int step = static_cast<int>(blockDim.x);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += step) {
    int before = 0, given = 0;
    for (int j = 0; j < n; j++) {
      before += plan.expert[j] < e;
      given += plan.expert[j] == e ? plan.quota[j] : 0;
    }
    offsets[e] = e + before;
    rank[e + before] = home[e];
    slot[e + before] = -1;
    quota[e + before] = load[e] - given;
  }
  if (threadIdx.x == 0) offsets[experts] = experts + n;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += step) {
    int at = plan.expert[i] + 1, used = 0;
    for (int j = 0; j < n; j++) {
      at += plan.expert[j] < plan.expert[i] || (j < i && plan.expert[j] == plan.expert[i]);
      used += j < i && plan.rank[j] == plan.rank[i];
    }
    rank[at] = plan.rank[i];
    slot[at] = used;
    quota[at] = plan.quota[i];
  }
}

// The block writes a record's plan: `n` replicas as they were opened, and grouped by expert.
__device__ void write_record(i64 record, const Replicas& plan, int n, i64 tau, const Totals& s,
                             const int* load, const int* home, int experts, int room,
                             const Result& out) {
  const int me = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int i = me; i < n; i += step) {
    out.expert[record * room + i] = plan.expert[i];
    out.rank[record * room + i] = plan.rank[i];
    out.quota[record * room + i] = plan.quota[i];
  }
  const i64 instances = record * (experts + room);
  group(plan, n, load, home, experts, out.offsets + record * (experts + 1),
        out.instance_rank + instances, out.instance_slot + instances,
        out.instance_quota + instances);
  if (me == 0) {
    out.header[4 * record] = tau;
    out.header[4 * record + 1] = n;
    out.header[4 * record + 2] = s.bad;
    out.header[4 * record + 3] = static_cast<i64>(s.total);
  }
}

}  // namespace hw
