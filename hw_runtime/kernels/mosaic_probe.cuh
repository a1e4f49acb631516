// A probe of the mosaic planner: bring every rank to its capacity at one threshold, method by method.
//
// ultraep_sim/planning/mosaic_probe.py tries passes, then chains, domain by domain, then the published
// greedy for all domains; with crossing, that first. Here each method is a task of one warp, and all
// run side by side. Whether a threshold holds is their disjunction; which plan is kept is decided
// afterwards, in the CPU's order.
#pragma once
#include "mosaic_chain.cuh"

namespace hw {

constexpr int MAX_METHODS = 8;  // a crossing, four passes, two chains, the greedy

enum Kind { CROSS, PASS, CHAIN, GREEDY };

struct Method {
  Kind kind;
  int turns, tile;  // of a pass
  u32 luck;         // of a chain
};

// A probe tries a plain order and, `again` (1) or not (0), a shuffled one, each with and without
// whole tiles, then as many chains. Without tiles the CPU's second try of an order follows only a
// failure of the first; for the plain order it is the same once more and is left out here.
__device__ FORCE_INLINE int passes(const Group& g, int again) {
  return g.tile > 1 ? 2 * (again + 1) : 1 + 2 * again;
}
__device__ FORCE_INLINE int methods(const Group& g, int again) {
  return g.crossing + passes(g, again) + again + 1 + 1;
}

__device__ Method method(const Group& g, int again, int at) {
  if (g.crossing && at-- == 0) return {CROSS, 0, 1, 0};
  const int ahead = passes(g, again);
  if (at < ahead) {
    // Each shuffle goes on from where the last one left the generator.
    if (g.tile == 1) return {PASS, at, 1, 0};
    return {PASS, at < 2 ? 0 : at - 1, at % 2 ? g.tile : 1, 0};
  }
  at -= ahead;
  if (at <= again) return {CHAIN, 0, 1, static_cast<u32>(at) * 7919u};
  return {GREEDY, 0, 1, 0};
}

// The published oracle, with loads shifted so that every capacity is zero.
__device__ int greedy_for_all(const Group& g, i64 tau, const Scratch& w) {
  for (int r = static_cast<int>(lane()); r < g.ranks; r += 32) w.mirror[r] = -gap_of(g, tau, r);
  sync_warp();
  u32 hot = 0;
  for (int r = static_cast<int>(lane()); r < g.ranks; r += 32) {
    const int mine = w.mirror[r];
    if (mine <= 0) continue;
    int before = 0;
    for (int other = 0; other < g.ranks; other++)
      before += w.mirror[other] > mine || (w.mirror[other] == mine && other < r);
    w.order[before] = static_cast<u16>(r);
    hot++;
  }
  hot = warp_sum(hot);
  sync_warp();
  const Problem p = {g.load,  w.mirror, g.start,  w.order,
                     g.expert_order, g.ranks,  g.slots, g.domain, static_cast<int>(hot)};
  const int n = probe(p, 0, DYNAMIC_FLOOR, 0, w.out);
  return n >= 0 ? n : probe(p, 0, NO_FLOOR, 0, w.out);
}

template <int PER_LANE>
__device__ NO_INLINE void cover_domains(const Group& g, i64 tau, const Method& m,
                                        const Scratch& w) {
  for (int begin = 0, d = 0; begin < g.ranks; begin += g.domain, d++) {
    const int end = begin + g.domain < g.ranks ? begin + g.domain : g.ranks;
    Shed s = {0, 0, 0, false};
    if (m.kind == PASS)
      s = pass<PER_LANE>(g, tau, begin, end, m.turns, m.tile, w);
    else
      s.count = chain<PER_LANE>(g, tau, begin, end, m.luck, w);
    if (lane() == 0) {
      w.count[d] = static_cast<short>(s.count);
      w.sent[d] = static_cast<u16>(s.sent);
      w.fanout[d] = static_cast<u16>(s.fanout);
    }
    sync_warp();  // the next domain uses the same mirror
  }
}

template <int PER_LANE>
__device__ NO_INLINE int cross_domains(const Group& g, i64 tau, const Scratch& w) {
  return cross<PER_LANE>(g, tau, w);
}

// One warp tries one method; what it found is in its scratch.
__device__ void attempt(const Group& g, i64 tau, const Method& m, const Scratch& w) {
  sync_warp();
  int total = -1;
  if (m.kind == GREEDY) {
    total = greedy_for_all(g, tau, w);
  } else if (m.kind == CROSS) {
    if (g.ranks <= 64)
      total = cross_domains<2>(g, tau, w);
    else if (g.ranks <= 96)
      total = cross_domains<3>(g, tau, w);
    else
      total = cross_domains<8>(g, tau, w);
  } else if (g.domain <= 32) {
    cover_domains<1>(g, tau, m, w);
  } else if (g.domain <= 64) {
    cover_domains<2>(g, tau, m, w);
  } else if (g.domain <= 96) {
    cover_domains<3>(g, tau, m, w);
  } else {
    cover_domains<8>(g, tau, m, w);
  }
  if (lane() == 0) *w.total = total;
  sync_warp();
}

struct Choice {  // in shared memory: whose replicas make the plan
  int whole;                // the warp with a plan for all domains, or -1
  int count;                // replicas of the plan, -1: no method succeeded
  u8 warp[MAX_RANKS];       // else, by domain
  u16 offset[MAX_RANKS];    // where its replicas begin in the plan
};

// Among a domain's passes: the fewest replicas, no busier sender and no wider fan-out than in the
// first that succeeded; whole tiles on a tie. Its method, or -1.
__device__ int best_pass(const Group& g, const Scratch* warps, int first, int again, int d) {
  int best = -1, sent = 0, fanout = 0;
  bool in_tiles = false;
  for (int at = first; at < first + passes(g, again); at++) {
    const Scratch& w = warps[at];
    if (w.count[d] < 0) continue;
    const Method m = method(g, again, at);
    const bool tiles = m.tile > 1;
    if (g.tile == 1 && m.turns == 2 && warps[at - 1].count[d] >= 0) continue;
    if (best < 0) {
      sent = w.sent[d];
      fanout = w.fanout[d];
    } else {
      const int fewest = warps[best].count[d];
      if (w.sent[d] > sent || w.fanout[d] > fanout) continue;
      if (w.count[d] > fewest || (w.count[d] == fewest && (!tiles || in_tiles))) continue;
    }
    best = at;
    in_tiles = tiles;
  }
  return best;
}

// One thread: choose as the CPU does, which would have tried one method after the other.
__device__ void choose(const Group& g, const Scratch* warps, int again, Choice& c) {
  const int all = methods(g, again);
  c.whole = 0;
  c.count = g.crossing ? *warps[0].total : -1;
  if (c.count >= 0) return;
  c.whole = -1;
  c.count = 0;
  for (int begin = 0, d = 0; begin < g.ranks; begin += g.domain, d++) {
    int best = best_pass(g, warps, g.crossing, again, d);
    for (int at = g.crossing + passes(g, again); best < 0 && at < all - 1; at++)
      if (warps[at].count[d] >= 0) best = at;
    if (best < 0) {  // one domain that nothing covers: the greedy is asked for all
      c.whole = all - 1;
      c.count = *warps[all - 1].total;
      return;
    }
    c.warp[d] = static_cast<u8>(best);
    c.offset[d] = static_cast<u16>(c.count);
    c.count += warps[best].count[d];
  }
}

// The block copies what was chosen into one list.
__device__ void copy_chosen(const Group& g, const Scratch* warps, const Choice& c,
                            const Replicas& plan) {
  const int width = g.domain * g.slots;
  for (int i = static_cast<int>(threadIdx.x); i < g.ranks * g.slots;
       i += static_cast<int>(blockDim.x)) {
    const int d = i / width, at = i % width;
    const Scratch& w = warps[c.whole >= 0 ? c.whole : c.warp[d]];
    if (at >= w.count[d] && c.whole < 0) continue;
    if (i >= c.count && c.whole >= 0) continue;
    const int to = c.whole >= 0 ? i : c.offset[d] + at;
    plan.expert[to] = w.out.expert[i];
    plan.rank[to] = w.out.rank[i];
    plan.quota[to] = w.out.quota[i];
  }
}

}  // namespace hw
