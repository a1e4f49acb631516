// The quota planner on the device: loads in, replicas and grouped instances out.
//
// One block a record (an EP group, layer and micro-batch); its scale-up domains share the probes.
// The probe sequence is the one of ultraep_sim/planning/quota.py, and so is every number: the first
// threshold in three modes, then rounds of seven equally spaced thresholds. Probes of a round run
// side by side, one a warp, and the first round of the search runs beside the first threshold, so
// a plan costs the time of one to about six probes. A probe keeps its replicas; no plan is built
// twice.
#include "record.cuh"
#include "search.cuh"

namespace hw {

constexpr int ATTEMPTS = 3;
constexpr int PROBING = ATTEMPTS + PROBES;  // warps that probe

struct Search {  // what the block shares between rounds
  Totals totals;
  Interval range;
  u32 hot;
  i64 first;
  int found[PROBING];   // replicas of each warp's probe, or -1
  int buffer[PROBING];  // where each warp writes its replicas
  int spare, count;     // buffer and number of the best so far
  bool opened, done;    // the first threshold did; nothing is left to probe
};

// First threshold, mean and largest load: of the domain with the largest mean.
__device__ void thresholds(const int* rank_load, const u32* domain_total, int ranks, int domain,
                           i64 target_scaled, Search& s) {
  if (warp() != 0) return;
  i64 first = 0, mean = 0;
  u32 high = 0;
  for (int d = static_cast<int>(lane()); d * domain < ranks; d += 32) {
    const int members = ranks - d * domain < domain ? ranks - d * domain : domain;
    const i64 total = domain_total[d], parts = members * TARGET_SCALE;
    const i64 wanted = (total * target_scaled + parts - 1) / parts;
    if (wanted > first) first = wanted;
    if (total / members > mean) mean = total / members;
  }
  for (int r = static_cast<int>(lane()); r < ranks; r += 32)
    if (static_cast<u32>(rank_load[r]) > high) high = static_cast<u32>(rank_load[r]);
  first = warp_max64(first);
  mean = warp_max64(mean);
  high = warp_max(high);
  if (lane() == 0) {
    s.first = first;
    s.range = interval(first, high, mean);
  }
}

// Overloaded ranks by load, and the experts of each by load; ties go to the lower number.
__device__ void sort_by_load(const int* load, const int* rank_load, const int* start,
                             const int* home, const int* by_home, int ranks, int experts,
                             u16* rank_order, u16* expert_order, Search& s) {
  for (int r = static_cast<int>(threadIdx.x); r < ranks; r += static_cast<int>(blockDim.x)) {
    const int mine = rank_load[r];
    if (mine <= s.first) continue;
    int before = 0;
    for (int other = 0; other < ranks; other++)
      before += rank_load[other] > mine || (rank_load[other] == mine && other < r);
    rank_order[before] = static_cast<u16>(r);
    add_shared(&s.hot, 1u);
  }
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    const int h = home[e], mine = load[e];
    if (rank_load[h] <= s.first) continue;
    int at = start[h];
    for (int i = start[h]; i < start[h + 1]; i++) {
      const int other = by_home[i];
      at += load[other] > mine || (load[other] == mine && other < e);
    }
    expert_order[at] = static_cast<u16>(e);
  }
}

__device__ void keep(Search& s, int warp) {  // by one thread: this warp's replicas are the best
  s.count = s.found[warp];
  const int swap = s.buffer[warp];
  s.buffer[warp] = s.spare;
  s.spare = swap;
}

__device__ void take(Search& s) {  // by one thread: what a round of the search found
  const int best = shrink(s.range, s.found + ATTEMPTS);
  if (best) keep(s, ATTEMPTS + best - 1);
  s.done = narrow(s.range);
}

// One thread: the first attempt that succeeded is the plan; else the search starts.
__device__ void open(Search& s) {
  for (int w = 0; w < ATTEMPTS && !s.done; w++) {
    if (s.found[w] < 0) continue;
    keep(s, w);
    s.range.high = s.first;
    s.opened = s.done = true;
  }
  if (s.done) return;
  s.done = narrow(s.range);
  if (!s.done) take(s);  // its first round ran beside the attempts
}

// Follow the probe sequence; the replicas are in buffer `s.spare` then, `s.count` of them, and the
// threshold in `s.range.high`. What one thread decides is written between two barriers.
__device__ void search(const Problem& p, const Replicas* buffers, u32 min_quota, Search& s) {
  const int w = static_cast<int>(warp());
  const bool leader = threadIdx.x == 0;
  for (bool opening = true; opening || !s.done; opening = false) {
    if (w < PROBING && (w >= ATTEMPTS || opening)) {
      const bool attempt = w < ATTEMPTS;
      const int mode = attempt && w < 2 ? DYNAMIC_FLOOR : NO_FLOOR;
      int n = -1;
      const i64 tau = attempt ? s.first : spaced(s.range, w - ATTEMPTS + 1);
      if (w > 0 || min_quota > 0)
        n = probe(p, tau, mode, w == 0 ? min_quota : 0, buffers[s.buffer[w]]);
      if (lane() == 0) s.found[w] = n;
    }
    sync_block();
    if (leader && opening) open(s);
    if (leader && !opening) take(s);
    sync_block();
  }
  if (min_quota > 0 && !s.opened) {
    if (w == 0) {
      const int n = probe(p, s.range.high, PLAIN_FLOOR, min_quota, buffers[s.buffer[0]]);
      if (lane() == 0) s.found[0] = n;
    }
    sync_block();
    if (leader && s.found[0] >= 0) keep(s, 0);
    sync_block();
  }
}

}  // namespace hw

// loads [records, sources, stride], the first `experts` of a row count; home [experts], by_home
// [experts] (experts by home, ascending), start [ranks + 1] as the layout has them. header
// [records, 4]: tau, replicas, status, total. Lists [records, ranks x slots] and, grouped by expert,
// offsets [records, experts + 1] and instances [records, experts + ranks x slots].
extern "C" __global__ void __launch_bounds__(512)
    quota_plan(const int* loads, int sources, int stride, const int* home, const int* by_home,
               const int* starts, int ranks, int experts, int slots, int domain,
               i64 target_scaled, u32 min_quota, i64* header, int* expert, int* rank, int* quota,
               int* offsets, int* instance_rank, int* instance_slot, int* instance_quota) {
  using namespace hw;
  DYNAMIC_SHARED(memory);
  __shared__ Search s;
  __shared__ u32 domain_total[MAX_RANKS];
  __shared__ Replicas buffers[PROBING + 1];
  __shared__ Problem problem;
  const int me = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const i64 record = blockIdx.x;
  const int room = ranks * slots;
  loads += record * sources * stride;

  int* load = reinterpret_cast<int*>(memory);
  int* rank_load = load + experts;
  int* start = rank_load + ranks;
  int* quotas = start + ranks + 1;
  u16* narrow = reinterpret_cast<u16*>(quotas + (PROBING + 1) * room);
  u16* rank_order = narrow;
  u16* expert_order = rank_order + ranks;
  u16* hosts = expert_order + experts;

  for (int e = me; e < experts; e += step) load[e] = 0;
  for (int r = me; r < ranks; r += step) rank_load[r] = 0;
  for (int r = me; r <= ranks; r += step) start[r] = starts[r];
  for (int d = me; d < MAX_RANKS; d += step) domain_total[d] = 0;
  if (me <= PROBING) {
    buffers[me] = {hosts + 2 * me * room, hosts + (2 * me + 1) * room, quotas + me * room};
    if (me < PROBING) s.buffer[me] = me;
  }
  if (me == 0) {
    s.totals = {0, OK, 0};
    s.hot = 0;
    s.spare = PROBING;
    s.count = 0;
    s.opened = s.done = false;
  }
  sync_block();
  read_record(loads, sources, stride, home, experts, load, rank_load, s.totals);
  for (int r = me; r < ranks; r += step)
    add_shared(&domain_total[r / domain], static_cast<u32>(rank_load[r]));
  sync_block();
  thresholds(rank_load, domain_total, ranks, domain, target_scaled, s);
  sync_block();

  i64 tau = s.range.high <= s.first ? s.first : s.range.high;
  if (s.totals.bad != OK) {
    tau = 0;  // no plan: mains keep what they have, and the status says why
  } else if (s.range.high > s.first && slots > 0) {
    sort_by_load(load, rank_load, start, home, by_home, ranks, experts, rank_order, expert_order,
                 s);
    sync_block();
    if (me == 0)
      problem = {load,  rank_load, start,  rank_order, expert_order,
                 ranks, slots,     domain, static_cast<int>(s.hot)};
    sync_block();
    search(problem, buffers, min_quota, s);
    tau = s.range.high;
  }

  write_record(record, buffers[s.spare], s.count, tau, s.totals, load, home, experts, room,
               {header, expert, rank, quota, offsets, instance_rank, instance_slot,
                instance_quota});
}
