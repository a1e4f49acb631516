// The mosaic planner on the device, effort fast: loads in, replicas and grouped instances out.
//
// One block a record. The probe sequence is that of ultraep_sim/planning/mosaic_solver.py, and so is
// every number: the first threshold, then rounds of seven equally spaced ones, then the last threshold
// with one more order of sources. The methods of a probe, and the probes of a round, are tasks that
// the block's warps take in turn (mosaic_probe.cuh): where the first threshold holds, as it mostly
// does, a plan costs the time of one pass.
#include "mosaic_probe.cuh"
#include "search.cuh"

namespace hw {

constexpr int MAX_WARPS = 16;
constexpr int WORDS = MAX_RANKS / 32;  // of a bit for every domain

struct Search {  // what the block shares
  Totals totals;
  Interval range;
  i64 first;
  int found[PROBES];
  u32 covered[PROBES][WORDS];
  int total[MAX_WARPS];
  u32 domain_total[MAX_RANKS], domain_speed[MAX_RANKS];
  Choice choice;
};

// First threshold, mean and the largest threshold that anybody needs, by warp 0.
__device__ void thresholds(const Group& g, i64 target_scaled, Search& s) {
  if (warp() != 0) return;
  i64 first = 0, mean = 0, high = 0;
  const int span = g.crossing ? g.ranks : g.domain;
  for (int d = static_cast<int>(lane()); d * span < g.ranks; d += 32) {
    const i64 total = s.domain_total[d], speed = s.domain_speed[d];
    const i64 wanted = (total * target_scaled + TARGET_SCALE - 1) / TARGET_SCALE;
    const i64 each = (wanted * SPEED_ONE + speed - 1) / speed;
    if (each > first) first = each;
    if (total * SPEED_ONE / speed > mean) mean = total * SPEED_ONE / speed;
  }
  for (int r = static_cast<int>(lane()); r < g.ranks; r += 32) {
    const i64 speed = g.speed[r], needed = (g.rank_load[r] * SPEED_ONE + speed - 1) / speed;
    if (needed > high) high = needed;
  }
  first = warp_max64(first);
  mean = warp_max64(mean);
  high = warp_max64(high);
  if (lane() == 0) {
    s.first = first;
    s.range = interval(first, high, mean);
  }
}

// The experts of ranks above their capacity at the first threshold, by load; ties to the lower one.
__device__ void sort_experts(const Group& g, const int* home, i64 first, u16* expert_order) {
  for (int e = static_cast<int>(threadIdx.x); e < g.experts; e += static_cast<int>(blockDim.x)) {
    const int h = home[e], mine = g.load[e];
    if (gap_of(g, first, h) >= 0) continue;
    int at = g.start[h];
    for (int i = g.start[h]; i < g.start[h + 1]; i++) {
      const int other = g.by_home[i];
      at += g.load[other] > mine || (g.load[other] == mine && other < e);
    }
    expert_order[at] = static_cast<u16>(e);
  }
}

// All methods at one threshold, one a warp, and what the CPU would have kept.
__device__ void decide(const Group& g, i64 tau, int again, const Scratch* warps, Search& s) {
  const int w = static_cast<int>(warp());
  if (w < methods(g, again)) attempt(g, tau, method(g, again, w), warps[w]);
  sync_block();
  if (threadIdx.x == 0) choose(g, warps, again, s.choice);
  sync_block();
}

__device__ void mark(const Group& g, const Method& m, const Scratch& w, u32* covered) {
  for (int d = 0; d * g.domain < g.ranks; d++)
    if (m.kind == CROSS || m.kind == GREEDY ? *w.total >= 0 : w.count[d] >= 0)
      or_shared(&covered[d >> 5], 1u << (d & 31));
}

// One round: every method at every threshold, as many at a time as there are warps.
__device__ void search_round(const Group& g, const Scratch* warps, Search& s) {
  const int me = static_cast<int>(threadIdx.x), w = static_cast<int>(warp());
  const int each = methods(g, 1);
  if (me < PROBES * WORDS) s.covered[me / WORDS][me % WORDS] = 0;
  sync_block();
  for (int task = w; task < PROBES * each; task += static_cast<int>(blockDim.x) / 32) {
    const Method m = method(g, 1, task / PROBES);
    const int j = task % PROBES;
    attempt(g, spaced(s.range, j + 1), m, warps[w]);
    if (lane() == 0) mark(g, m, warps[w], s.covered[j]);
  }
  sync_block();
  if (me < PROBES) {
    bool all = true;
    for (int d = 0; d * g.domain < g.ranks; d++) all &= s.covered[me][d >> 5] >> (d & 31) & 1u;
    s.found[me] = all ? 0 : -1;
  }
  sync_block();
  if (me == 0) shrink(s.range, s.found);
  sync_block();
}

// Follow the probe sequence; the threshold. The plan is `s.choice`.
__device__ i64 search(const Group& g, const Scratch* warps, Search& s) {
  decide(g, s.first, 0, warps, s);
  if (s.choice.count >= 0) return s.first;
  while (!narrow(s.range)) search_round(g, warps, s);
  decide(g, s.range.high, 1, warps, s);
  return s.range.high;
}

// Cut a warp's scratch out of shared memory; its bytes. hw_runtime/mosaic.py computes the same.
__device__ int cut(u8* memory, const Group& g, int* total, Scratch* out) {
  const int room = g.ranks * g.slots, domains = (g.ranks + g.domain - 1) / g.domain;
  int* wide = reinterpret_cast<int*>(memory);
  u16* narrow = reinterpret_cast<u16*>(wide + g.experts + g.ranks + room);
  u16* rest = narrow + 3 * room;
  const int bytes = 4 * (g.experts + g.ranks + room) + 2 * (3 * room + g.ranks + 3 * domains);
  if (out)
    *out = {wide,
            wide + g.experts,
            {narrow, narrow + room, wide + g.experts + g.ranks},
            narrow + 2 * room,
            rest,
            reinterpret_cast<short*>(rest + g.ranks),
            rest + g.ranks + domains,
            rest + g.ranks + 2 * domains,
            total};
  return (bytes + 3) / 4 * 4;
}

}  // namespace hw

// Arguments as those of quota_plan (planner.cu), and: speeds [ranks] in 1 / 65536, `tile` rows of a
// GEMM tile, `crossing` whether replicas may leave their domain.
extern "C" __global__ void __launch_bounds__(512)
    mosaic_plan(const int* loads, int sources, int stride, const int* home, const int* by_homes,
                const int* starts, const int* speeds, int ranks, int experts, int slots,
                int domain, i64 target_scaled, int tile, int crossing, i64* header, int* expert,
                int* rank, int* quota, int* offsets, int* instance_rank, int* instance_slot,
                int* instance_quota) {
  using namespace hw;
  DYNAMIC_SHARED(memory);
  __shared__ Search s;
  __shared__ Scratch scratch[MAX_WARPS];
  __shared__ Group g;
  __shared__ Replicas plan;
  const int me = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const i64 record = blockIdx.x;
  const int room = ranks * slots, span = crossing ? ranks : domain;
  loads += record * sources * stride;

  int* load = reinterpret_cast<int*>(memory);
  int* rank_load = load + experts;
  int* speed = rank_load + ranks;
  int* start = speed + ranks;
  int* quotas = start + ranks + 1;
  u16* by_home = reinterpret_cast<u16*>(quotas + room);
  u16* expert_order = by_home + experts;
  u16* names = expert_order + experts;
  u8* rest = memory + 4 * (experts + 3 * ranks + 1 + room) + 4 * (experts + room);

  for (int e = me; e < experts; e += step) {
    load[e] = 0;
    by_home[e] = static_cast<u16>(by_homes[e]);
  }
  for (int r = me; r < ranks; r += step) {
    rank_load[r] = 0;
    speed[r] = speeds[r];
  }
  for (int r = me; r <= ranks; r += step) start[r] = starts[r];
  for (int d = me; d < MAX_RANKS; d += step) s.domain_total[d] = s.domain_speed[d] = 0;
  if (me == 0) {
    s.totals = {0, OK, 0};
    s.choice.count = 0;
    plan = {names, names + room, quotas};
    g = {load,  rank_load, speed, start,  by_home, expert_order,
         ranks, experts,   slots, domain, tile,    crossing && domain < ranks};
  }
  sync_block();
  if (me < step / 32) cut(rest + me * cut(rest, g, nullptr, nullptr), g, &s.total[me], &scratch[me]);
  read_record(loads, sources, stride, home, experts, load, rank_load, s.totals);
  for (int r = me; r < ranks; r += step) {
    add_shared(&s.domain_total[r / span], static_cast<u32>(rank_load[r]));
    add_shared(&s.domain_speed[r / span], static_cast<u32>(speed[r]));
  }
  sync_block();
  thresholds(g, target_scaled, s);
  sync_block();

  i64 tau = s.range.high <= s.first ? s.first : s.range.high;
  if (s.totals.bad != OK) {
    tau = 0;  // no plan: mains keep what they have, and the status says why
  } else if (s.range.high > s.first && slots > 0) {
    sort_experts(g, home, s.first, expert_order);
    sync_block();
    tau = search(g, scratch, s);
    copy_chosen(g, scratch, s.choice, plan);
    sync_block();
  }
  const int n = s.choice.count > 0 ? s.choice.count : 0;
  write_record(record, plan, n, tau, s.totals, load, home, experts, room,
               {header, expert, rank, quota, offsets, instance_rank, instance_slot,
                instance_quota});
}
