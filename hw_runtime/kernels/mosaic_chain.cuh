// Chained covering, one warp a try: a source may give more than its excess and be filled in turn.
//
// The same decisions as ultraep_sim/planning/chain.py, in the same order; ties go to the lower number.
#pragma once
#include "mosaic_fit.cuh"

namespace hw {

// The main of a rank with most tokens left, or -1; sometimes the second.
__device__ int richest(const int* left, const u16* by_home, int first, int last, u32 luck) {
  int skip = -1, chosen = -1;
  for (int turn = 0; turn < ((luck & 7u) == 1 ? 2 : 1); turn++) {
    u32 most = 0, at = ~0u;
    for (int i = first + static_cast<int>(lane()); i < last; i += 32) {
      const int tokens = left[by_home[i]];
      if (i == skip || tokens <= 0 || static_cast<u32>(tokens) <= most) continue;
      most = static_cast<u32>(tokens);
      at = static_cast<u32>(i);
    }
    const u32 top = warp_max(most);
    if (top == 0) break;
    skip = static_cast<int>(warp_min(most == top ? at : ~0u));
    chosen = by_home[skip];
  }
  return chosen;
}

struct Move {
  int expert, available, need;
  i64 budget;
  u32 luck;
};

// The place of the sink for a move, or -1: the smallest that covers the need within the budget (a
// last slot counts its whole rest as waste); else the largest that the expert fills; else the
// smallest.
template <int PER_LANE>
__device__ int choose_chained(const Group& g, int begin, const Move& m, const int (&gap)[PER_LANE],
                              const int (&free)[PER_LANE], const u16* held, int& slack) {
  int covers[PER_LANE], filled[PER_LANE], rest[PER_LANE];
  u32 least = ~0u, most = 0, smallest = ~0u;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    covers[k] = filled[k] = rest[k] = 0;
    const int r = begin + static_cast<int>(lane()) + 32 * k;
    if (gap[k] <= 0 || free[k] == 0) continue;
    bool taken = (m.luck & 3u) == 1 && (((static_cast<u32>(r) * 7 + m.luck) >> 2) & 3u) == 0;
    for (int j = 0; j < g.slots - free[k]; j++) taken |= held[r * g.slots + j] == m.expert;
    if (taken) continue;
    const u32 mine = static_cast<u32>(gap[k]);
    const i64 waste = free[k] == 1 ? static_cast<i64>(gap[k]) - m.need : 0;
    if (gap[k] >= m.need && m.available >= m.need && waste <= m.budget) {
      covers[k] = gap[k];
      least = mine < least ? mine : least;
    } else if (gap[k] <= m.available) {
      filled[k] = gap[k];
      most = mine > most ? mine : most;
    } else {
      rest[k] = gap[k];
      smallest = mine < smallest ? mine : smallest;
    }
  }
  u32 best = warp_min(least);
  slack = static_cast<int>(best);
  if (best != ~0u) return lowest(covers, slack);
  best = warp_max(most);
  slack = static_cast<int>(best);
  if (best != 0) return lowest(filled, slack);
  best = warp_min(smallest);
  slack = static_cast<int>(best);
  return best != ~0u ? lowest(rest, slack) : -1;
}

// What the ranks may carry above what they do carry: the waste that can be afforded.
template <int PER_LANE>
__device__ FORCE_INLINE i64 sum_gaps(const int (&gap)[PER_LANE], int width) {
  u64 sum = 0;  // each raised by 2^31, to be summed without signs
#pragma unroll
  for (int k = 0; k < PER_LANE; k++)
    if (static_cast<int>(lane()) + 32 * k < width) sum += static_cast<u32>(gap[k]) ^ 0x80000000u;
  const u32 low = warp_sum(static_cast<u32>(sum & 0xffffffu));
  const u32 high = warp_sum(static_cast<u32>(sum >> 24));
  return static_cast<i64>((static_cast<u64>(high) << 24) + low) -
         (static_cast<i64>(width) << 31);
}

// Bring ranks [begin, end) to their capacities at `tau`; the number of replicas, or -1. `luck` above
// zero seeds a generator that now and then takes the second-best choice.
template <int PER_LANE>
__device__ int chain(const Group& g, i64 tau, int begin, int end, u32 luck, const Scratch& w) {
  int gap[PER_LANE], free[PER_LANE];
  const int width = end - begin;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    const int at = static_cast<int>(lane()) + 32 * k;
    gap[k] = at < width ? gap_of(g, tau, begin + at) : 0;
    free[k] = at < width ? g.slots : 0;
  }
  i64 budget = sum_gaps(gap, width);
  if (budget < 0) return -1;
  for (int i = g.start[begin] + static_cast<int>(lane()); i < g.start[end]; i += 32) {
    const int load = g.load[g.by_home[i]];
    w.left[g.by_home[i]] = load > 1 ? load - 1 : 0;
  }
  const int room = begin * g.slots;
  for (int count = 0;;) {
    sync_warp();  // what is left of the experts is written
    int hottest = 0;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) hottest = gap[k] < hottest ? gap[k] : hottest;
    const int need = static_cast<int>(warp_max(static_cast<u32>(-hottest)));
    if (need == 0) return count;
    const int from = lowest(gap, -need), source = begin + from;
    if (luck) luck = next_random(luck);
    const int expert =
        richest(w.left, g.by_home, g.start[source], g.start[source + 1], luck >> 14);
    if (expert < 0) return -1;
    const int available = w.left[expert];
    int slack;
    const int to = choose_chained(g, begin, {expert, available, need, budget, luck >> 18}, gap,
                                  free, w.held, slack);
    sync_warp();  // all have read what is left of the expert
    if (to < 0) {
      if (lane() == 0) w.left[expert] = 0;  // nobody can take it; try the next
      continue;
    }
    int quota = need < slack ? need : slack;
    if (available < quota) quota = available;
    int slots_left = 0;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++)
      if (static_cast<int>(lane()) + 32 * k == to) slots_left = free[k];
    slots_left = shuffle(slots_left, static_cast<u32>(to) & 31u);
    if (slots_left == 1 && slack > quota) {
      if (slack - quota > budget) {
        quota = slack < available ? slack : available;
        if (slack - quota > budget) return -1;
      }
      budget -= slack - quota;
    }
    if (lane() == 0) {
      w.out.expert[room + count] = static_cast<u16>(expert);
      w.out.rank[room + count] = static_cast<u16>(begin + to);
      w.out.quota[room + count] = quota;
      w.left[expert] = available - quota;
    }
    count++;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
      const int at = static_cast<int>(lane()) + 32 * k;
      if (at == from) gap[k] += quota;
      if (at == to) {
        w.held[(begin + to) * g.slots + g.slots - free[k]] = static_cast<u16>(expert);
        gap[k] -= quota;
        free[k]--;
      }
    }
  }
}

}  // namespace hw
