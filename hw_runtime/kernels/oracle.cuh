// The greedy oracle of the published planner, one warp a probe.
//
// The same decisions as `greedy_oracle` of ultraep_sim/planning/quota.py, in the same order: ranks
// above the threshold by load, their experts by load, each token to the rank with most slack; ties
// go to the lower number. Lane i keeps ranks i, i + 32, ... in registers, so choosing the target of
// a move is two warp reductions. Loads and thresholds are below 2^31 here; products are not formed.
#pragma once
#include "ptx.cuh"

namespace hw {

enum Floor { NO_FLOOR = 0, PLAIN_FLOOR = 1, DYNAMIC_FLOOR = 2 };

struct Problem {  // all of it in shared memory
  const int* load;          // [experts]
  const int* rank_load;     // [ranks]
  const int* start;         // [ranks + 1] first main of each rank in expert_order
  const u16* rank_order;    // [hot] ranks above the first threshold, by load
  const u16* expert_order;  // [experts] mains of each such rank, by load
  int ranks, slots, domain, hot;
};

struct Replicas {  // in the order they were opened
  u16* expert;
  u16* rank;
  int* quota;
};

// Bring every rank to `tau` at most; the number of replicas, or -1. All lanes return the same.
template <int PER_LANE>
__device__ int greedy(const Problem& p, int tau, int mode, u32 min_quota,
                      const Replicas& out) {
  const u32 me = lane();
  int slack[PER_LANE], free[PER_LANE];
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    const int r = static_cast<int>(me) + 32 * k;
    slack[k] = r < p.ranks ? tau - p.rank_load[r] : 0;
    free[k] = r < p.ranks ? p.slots : 0;
  }
  int n = 0;
  for (int h = 0; h < p.hot; h++) {
    const int source = p.rank_order[h];
    int need = p.rank_load[source] - tau;
    if (need <= 0) break;  // sorted by load: nobody after this one is above tau
    const int begin = source / p.domain * p.domain;
    const int end = begin + p.domain;  // ranks beyond the last have no slots
    const int last = p.start[source + 1];
    for (int i = p.start[source]; i < last && need > 0; i++) {
      const int expert = p.expert_order[i];
      int left = p.load[expert] - 1;  // the main keeps one token
      // No rank is chosen twice for one expert: a move that does not end the loop fills its rank.
      while (need > 0 && left > 0) {
        u32 most = 0, feasible = 0;
        int best = 0;
#pragma unroll
        for (int k = 0; k < PER_LANE; k++) {
          const int r = static_cast<int>(me) + 32 * k;
          if (slack[k] > 0 && free[k] > 0 && r >= begin && r < end) {
            feasible++;
            if (static_cast<u32>(slack[k]) > most) {
              most = static_cast<u32>(slack[k]);
              best = r;
            }
          }
        }
        const u32 room = warp_max(most);
        if (room == 0) break;
        const int target = static_cast<int>(warp_min(most == room ? static_cast<u32>(best) : ~0u));
        int quota = need < left ? need : left;
        if (static_cast<u32>(quota) > room) quota = static_cast<int>(room);
        if (mode != NO_FLOOR) {
          u32 floor = min_quota;
          if (mode == DYNAMIC_FLOOR) {
            const u32 targets = warp_sum(feasible);
            const u32 share = (static_cast<u32>(need) + targets - 1) / targets;
            if (share > floor) floor = share;
          }
          if (static_cast<u32>(quota) < floor) break;
        }
        if (me == 0) {
          out.expert[n] = static_cast<u16>(expert);
          out.rank[n] = static_cast<u16>(target);
          out.quota[n] = quota;
        }
        n++;
#pragma unroll
        for (int k = 0; k < PER_LANE; k++) {
          if (static_cast<int>(me) + 32 * k == target) {
            slack[k] -= quota;
            free[k]--;
          }
        }
        left -= quota;
        need -= quota;
      }
    }
    if (need > 0) return -1;
  }
  return n;
}

// The smallest instance that has a register for every rank.
__device__ NO_INLINE int probe(const Problem& p, i64 tau, int mode, u32 min_quota,
                               const Replicas& out) {
  const int t = static_cast<int>(tau);
  if (p.ranks <= 32) return greedy<1>(p, t, mode, min_quota, out);
  if (p.ranks <= 64) return greedy<2>(p, t, mode, min_quota, out);
  if (p.ranks <= 96) return greedy<3>(p, t, mode, min_quota, out);
  return greedy<8>(p, t, mode, min_quota, out);
}

}  // namespace hw
