// One mosaic pass at one threshold, one warp a pass: cover overloaded ranks with well-fitting sinks.
//
// The same decisions as `fit` of ultraep_sim/planning/mosaic.py, in the same order. The CPU keeps its
// sinks sorted; here lane i keeps the slack of ranks i, i + 32, ... of the domain in registers, and
// what a sorted list says (largest, smallest that covers, best pair) is one to four warp reductions.
// In the list, sinks of equal slack go by rank, and so they do here.
#pragma once
#include "record.cuh"

namespace hw {

constexpr i64 SPEED_ONE = 1 << 16;
constexpr i64 MAX_TAU = 1ll << 42;  // times the largest speed, 16, this still fits 64 bits

struct Group {  // an EP group and its loads; arrays in shared memory
  const int* load;          // [experts]
  const int* rank_load;     // [ranks]
  const int* speed;         // [ranks] in 1 / SPEED_ONE
  const int* start;         // [ranks + 1] first main of each rank in the two lists that follow
  const u16* by_home;       // [experts] mains of each rank, ascending
  const u16* expert_order;  // [experts] mains of each rank above the first threshold, by load
  int ranks, experts, slots, domain, tile;
  bool crossing;
};

struct Scratch {  // of one warp, in shared memory
  int* left;     // [experts] tokens on the mains, where a method moves them
  int* mirror;   // [ranks] slacks of the domain's sinks, or loads as the greedy oracle wants them
  Replicas out;  // [ranks x slots], those of a domain from its first slot on
  u16* held;     // [ranks x slots]
  u16* order;    // [ranks]
  short* count;  // [domains] replicas, -1 where the domain is not covered
  u16* sent;     // [domains] most replicas from one home
  u16* fanout;   // [domains] most replicas of one expert
  int* total;    // replicas of a method for all domains at once, or -1
};

template <int PER_LANE>
struct Ranks {  // of a window of ranks: slot k of lane i is rank begin + i + 32 k
  int slack[PER_LANE];   // as a sink, 0 if it is none
  int free[PER_LANE];    // slots
  int excess[PER_LANE];  // left to shed
  i64 weight[PER_LANE];  // sources not yet visited go by this, largest first
};

// What a rank may still take at `tau`; below zero, what it must shed.
__device__ FORCE_INLINE int gap_of(const Group& g, i64 tau, int rank) {
  const i64 cap = (tau < MAX_TAU ? tau : MAX_TAU) * g.speed[rank] >> 16;
  return static_cast<int>(cap < MAX_TOTAL ? cap : MAX_TOTAL) - g.rank_load[rank];
}

__device__ FORCE_INLINE u32 next_random(u32 state) {
  return (state * 1103515245u + 12345u) & 0x7fffffffu;
}

// The lowest and the highest place in the window that has this value.
template <int PER_LANE, typename T>
__device__ FORCE_INLINE int lowest(const T (&values)[PER_LANE], T value) {
  u32 at = ~0u;
#pragma unroll
  for (int k = PER_LANE - 1; k >= 0; k--)
    if (values[k] == value) at = lane() + 32u * static_cast<u32>(k);
  return static_cast<int>(warp_min(at));
}
template <int PER_LANE>
__device__ FORCE_INLINE int highest(const int (&values)[PER_LANE], int value) {
  u32 at = 0;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++)
    if (values[k] == value) at = lane() + 32u * static_cast<u32>(k) + 1;
  return static_cast<int>(warp_max(at)) - 1;
}

// The larger sink of the pair with the smallest sum that covers `need`, which no sink does alone.
template <int PER_LANE>
__device__ int larger_of_pair(const Ranks<PER_LANE>& l, const int* mirror, int width, int need,
                              int& slack) {
  sync_warp();
  u32 sum[PER_LANE], least = ~0u;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) sum[k] = ~0u;
  for (int other = 0; other < width; other++) {
    const int others = mirror[other];
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
      const bool self = static_cast<int>(lane()) + 32 * k == other;
      const u32 both = static_cast<u32>(others) + static_cast<u32>(l.slack[k]);
      // No sink covers the need alone, so a sum that does is one of two that are not zero.
      if (!self && both >= static_cast<u32>(need) && both < sum[k]) sum[k] = both;
    }
  }
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) least = sum[k] < least ? sum[k] : least;
  least = warp_min(least);
  int best[PER_LANE], most = 0;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    best[k] = sum[k] == least ? l.slack[k] : 0;
    most = best[k] > most ? best[k] : most;
  }
  slack = static_cast<int>(warp_max(static_cast<u32>(most)));
  return highest(best, slack);
}

// The sink that takes the next part of `need`, and its slack; -1 if the expert moves no further.
template <int PER_LANE>
__device__ int choose_sink(const Ranks<PER_LANE>& l, const int* mirror, int width, int need,
                           i64 spare, int& slack) {
  u32 most = 0, fit = ~0u;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    const u32 mine = static_cast<u32>(l.slack[k]);
    if (mine > most) most = mine;
    if (l.slack[k] >= need && mine < fit) fit = mine;
  }
  const u32 largest = warp_max(most);
  slack = static_cast<int>(largest);
  if (largest == 0) return -1;
  if (slack >= need) {
    slack = static_cast<int>(warp_min(fit));
    if (need > spare || slack == need) return lowest(l.slack, slack);
    // A sink filled in part would be shared; one a little smaller is filled whole.
    u32 under = 0;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++)
      if (l.slack[k] < need && static_cast<u32>(l.slack[k]) > under)
        under = static_cast<u32>(l.slack[k]);
    under = warp_max(under);
    if (under * 2 < largest) return -1;
    slack = static_cast<int>(under);
    return highest(l.slack, slack);
  }
  const int top = highest(l.slack, slack);
  u32 second = 0;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++)
    if (static_cast<int>(lane()) + 32 * k != top && static_cast<u32>(l.slack[k]) > second)
      second = static_cast<u32>(l.slack[k]);
  if (largest + warp_max(second) < static_cast<u32>(need)) return top;
  return larger_of_pair(l, mirror, width, need, slack);
}

// Move `need` tokens of one expert, of which `spare` may stay; what was moved.
template <int PER_LANE>
__device__ int cover(Ranks<PER_LANE>& l, const Scratch& w, int begin, int width, int expert,
                     int need, i64 spare, int& count) {
  const int wanted = need;
  while (need > 0) {
    int slack;
    const int at = choose_sink(l, w.mirror, width, need, spare, slack);
    if (at < 0) break;
    const int quota = need < slack ? need : slack;
    if (lane() == 0) {
      w.out.expert[count] = static_cast<u16>(expert);
      w.out.rank[count] = static_cast<u16>(begin + at);
      w.out.quota[count] = quota;
    }
    count++;
    need -= quota;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
      if (static_cast<int>(lane()) + 32 * k == at) {
        l.free[k]--;
        l.slack[k] = l.free[k] > 0 ? slack - quota : 0;
        w.mirror[at] = l.slack[k];
      }
    }
  }
  return wanted - need;
}

struct Shed {  // what serving sources came to
  int count;         // replicas so far
  int sent, fanout;  // most of one home, of one expert
  bool missing;      // some excess found no sink
};

// Cover the sources of a window by weight. `tau` where weights are not excesses, else below zero.
template <int PER_LANE>
__device__ void serve(const Group& g, const int* loads, int begin, int width, int tile, i64 tau,
                      bool give_up, Ranks<PER_LANE>& l, const Scratch& w, Shed& s) {
  for (;;) {
    i64 mine = 0;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) mine = l.weight[k] > mine ? l.weight[k] : mine;
    const i64 top = warp_max64(mine);
    if (top == 0) return;
    const int at = lowest(l.weight, top), source = begin + at;
    const i64 excess = tau < 0 ? top : -static_cast<i64>(gap_of(g, tau, source));
    i64 need = excess + (tile - excess % tile) % tile;
    const int first = g.start[source], last = g.start[source + 1], before = s.count;
    u32 part_sum = 0;
    for (int i = first + static_cast<int>(lane()); i < last; i += 32) {
      const int load = loads[g.expert_order[i]];
      part_sum += load > 1 ? static_cast<u32>(load - 1) : 0u;
    }
    i64 others = warp_sum(part_sum);  // what the experts that follow can still give
    for (int i = first; i < last && need > 0; i++) {
      const int expert = g.expert_order[i], can = loads[expert] - 1;  // the main keeps one token
      int part = need < can ? static_cast<int>(need) : can;
      others -= can > 0 ? can : 0;
      part -= part % tile;
      if (part <= 0) continue;
      i64 spare = 0;
      if (part < need) {
        spare = others - (need - part);
        if (spare > part) spare = part;
      }
      const int opened = s.count;
      need -= cover(l, w, begin, width, expert, part, spare, s.count);
      if (s.count - opened > s.fanout) s.fanout = s.count - opened;
    }
    if (s.count - before > s.sent) s.sent = s.count - before;
    if (need > 0) s.missing = true;
    if (need > 0 && give_up) return;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
      if (static_cast<int>(lane()) + 32 * k == at) {
        l.weight[k] = 0;
        l.excess[k] = need > 0 ? static_cast<int>(need) : 0;
      }
    }
  }
}

// Weigh each source by its excess times a factor of 1 to 17, after `turns` - 1 earlier shuffles.
template <int PER_LANE>
__device__ void shuffle_sources(Ranks<PER_LANE>& l, int turns) {
  int pending[PER_LANE], sources = 0;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    pending[k] = l.excess[k];
    sources += static_cast<int>(count_bits(ballot(pending[k] > 0)));
  }
  u32 state = 1;
  for (int i = 0; i < sources * (turns - 1); i++) state = next_random(state);
  for (int i = 0; i < sources; i++) {
    u32 mine = 0;
#pragma unroll
    for (int k = 0; k < PER_LANE; k++)
      mine = static_cast<u32>(pending[k]) > mine ? static_cast<u32>(pending[k]) : mine;
    const int excess = static_cast<int>(warp_max(mine)), at = lowest(pending, excess);
    state = next_random(state);
#pragma unroll
    for (int k = 0; k < PER_LANE; k++) {
      if (static_cast<int>(lane()) + 32 * k == at) {
        l.weight[k] = static_cast<i64>(excess) * (64 + ((state >> 12) & 1023u)) >> 6;
        pending[k] = 0;
      }
    }
  }
}

// One pass over ranks [begin, end): plain (`turns` 0) or shuffled; -1 in `count` if it fails.
template <int PER_LANE>
__device__ Shed pass(const Group& g, i64 tau, int begin, int end, int turns, int tile,
                     const Scratch& w) {
  Ranks<PER_LANE> l;
  const int width = end - begin;
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    const int at = static_cast<int>(lane()) + 32 * k;
    const int gap = at < width ? gap_of(g, tau, begin + at) : 0;
    l.free[k] = g.slots;
    l.excess[k] = gap < 0 ? -gap : 0;
    l.weight[k] = l.excess[k];
    l.slack[k] = gap >= tile && g.slots > 0 ? gap - gap % tile : 0;
    if (at < width) w.mirror[at] = l.slack[k];
  }
  if (turns > 0) shuffle_sources(l, turns);
  const int room = begin * g.slots;
  Shed s = {room, 0, 0, false};
  serve(g, g.load, begin, width, tile, turns > 0 ? tau : -1, true, l, w, s);
  s.count = s.missing ? -1 : s.count - room;
  return s;
}

// Every domain covers itself as far as it goes; what is left goes to the sinks of all others.
template <int PER_LANE>
__device__ int cross(const Group& g, i64 tau, const Scratch& w) {
  Ranks<PER_LANE> l;
  int gap[PER_LANE];  // below zero on a source for good
#pragma unroll
  for (int k = 0; k < PER_LANE; k++) {
    const int r = static_cast<int>(lane()) + 32 * k;
    gap[k] = r < g.ranks ? gap_of(g, tau, r) : 0;
    l.free[k] = g.slots;
    l.excess[k] = gap[k] < 0 ? -gap[k] : 0;
  }
  for (int e = static_cast<int>(lane()); e < g.experts; e += 32) w.left[e] = g.load[e];
  Shed s = {0, 0, 0, false};
  for (int outside = 0; outside < 2; outside++) {
    s.missing = false;
    for (int begin = 0; begin < g.ranks; begin += g.domain) {
      sync_warp();  // the last domain's tokens have left, and nobody reads its sinks any more
      bool sink[PER_LANE];
#pragma unroll
      for (int k = 0; k < PER_LANE; k++) {
        const int r = static_cast<int>(lane()) + 32 * k;
        const bool inside = r >= begin && r < begin + g.domain;
        l.weight[k] = inside ? l.excess[k] : 0;
        sink[k] = inside != (outside == 1) && gap[k] > 0 && l.free[k] > 0;
        l.slack[k] = sink[k] ? gap[k] : 0;
        if (r < g.ranks) w.mirror[r] = l.slack[k];
      }
      const int before = s.count;
      serve(g, w.left, 0, g.ranks, 1, -1, false, l, w, s);
      if (lane() == 0)
        for (int i = before; i < s.count; i++) w.left[w.out.expert[i]] -= w.out.quota[i];
#pragma unroll
      for (int k = 0; k < PER_LANE; k++)
        if (sink[k]) gap[k] = l.slack[k];
    }
    if (!s.missing) return s.count;
  }
  return -1;
}

}  // namespace hw
