// Transfer task lists on the device, from what the planner left there: no host in between.
// Every array is bit-identical to what the CPU makes: grouped instances to plan_from_replicas,
// relays to relay_tree, tasks to ultraep_sim.fabric.tiles.plan_tiles, gradients to gradient_list.
// One block; any multiple of 32 threads.
#include "tiles.cuh"

constexpr int kMinFanout = 4, kMaxRelays = 8, kMinGain = 2, kSmallDomain = 8;
constexpr int kIndexBits = 11;  // replicas of one expert, at most 2048; copies a rank sends < 2^21

// The plan in, the grouped instances out; every field 8 bytes.
struct PlanArrays {
  const int* expert;  // [count], in the order the planner opened the replicas
  const int* rank;    // [count]
  const int* count;   // [1]
  const int* home;    // [experts]
  i64 experts, relay; // relay: whether the relay rule may take part
  i64* offsets;       // [experts + 1]
  int* out_rank;      // [experts + capacity]
  int* out_slot;      // [experts + capacity]
  int* scratch;       // [5 x (experts + capacity) + 2 x ranks + threads + 2 x capacity]
};

struct GradientArrays {
  int* counts;    // [2]: tasks, replicas
  int* expert;    // [tasks]
  int* home;      // [tasks]
  int* row;       // [tasks]
  i64* offsets;   // [tasks + 1]
  int* rank;      // [replicas], ascending inside a task
  int* slot;      // [replicas]
  const int* main_row;  // [experts]
};

namespace {

struct Scratch {
  int* sender;    // [instances] instance that a replica is copied from; itself for a main
  int* sends;     // [instances] copies that an instance sends
  int* task;      // [instances] task of a sender
  int* first;     // [instances] first copy of a sender
  int* at;        // [instances] copy of a replica, -1 for a main
  int* sent;      // [ranks] copies a rank sends with relays
  int* direct;    // [ranks] and without
  int* partial;   // [threads]
  int* instance;  // [capacity] instance of the i-th replica
  int* kind;      // [capacity] class of a task
};

__device__ Scratch divide(const PlanArrays& p, const TaskArrays& t) {
  const i64 n = p.experts + t.capacity;
  Scratch s;
  s.sender = p.scratch;
  s.sends = s.sender + n;
  s.task = s.sends + n;
  s.first = s.task + n;
  s.at = s.first + n;
  s.sent = s.at + n;
  s.direct = s.sent + t.ranks;
  s.partial = s.direct + t.ranks;
  s.instance = s.partial + blockDim.x;
  s.kind = s.instance + t.capacity;
  return s;
}

// out[i] = sum of value(0..i-1), for i in [0, n]; all threads take part.
template <typename Value, typename Out>
__device__ void prefix_sum(int n, int* partial, Value value, Out out) {
  const int threads = static_cast<int>(blockDim.x), me = static_cast<int>(threadIdx.x);
  const int each = (n + threads - 1) / threads;
  const int begin = me * each < n ? me * each : n, end = begin + each < n ? begin + each : n;
  int sum = 0;
  for (int i = begin; i < end; i++) sum += value(i);
  partial[me] = sum;
  hw::sync_block();
  sum = 0;
  for (int t = 0; t < me; t++) sum += partial[t];
  for (int i = begin; i < end; i++) {
    out(i, sum);
    sum += value(i);
  }
  if (me == threads - 1) out(n, sum);
  hw::sync_block();
}

// Instances grouped by expert, mains first, replicas as opened; slots of a rank likewise.
__device__ void group(const PlanArrays& p, const Scratch& s, int count) {
  const int experts = static_cast<int>(p.experts);
  for (int e = threadIdx.x; e < experts; e += blockDim.x) s.sends[e] = 0;
  hw::sync_block();
  for (int i = threadIdx.x; i < count; i += blockDim.x) hw::add_global(s.sends + p.expert[i], 1);
  hw::sync_block();
  prefix_sum(
      experts, s.partial, [&](int e) { return s.sends[e] + 1; },
      [&](int e, int sum) { p.offsets[e] = sum; });
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    p.out_rank[p.offsets[e]] = p.home[e];
    p.out_slot[p.offsets[e]] = -1;
  }
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int before = 0, used = 0;
    for (int j = 0; j < i; j++) {
      before += p.expert[j] == p.expert[i];
      used += p.rank[j] == p.rank[i];
    }
    const int at = static_cast<int>(p.offsets[p.expert[i]]) + 1 + before;
    s.instance[i] = at;
    p.out_rank[at] = p.rank[i];
    p.out_slot[at] = used;
  }
  hw::sync_block();
}

// Copy everything from the mains; count what each rank would send.
__device__ int send_directly(const PlanArrays& p, const Scratch& s, int ranks) {
  for (int r = threadIdx.x; r < ranks; r += blockDim.x) s.direct[r] = 0;
  hw::sync_block();
  int widest = 0;
  for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
    const int begin = static_cast<int>(p.offsets[e]), end = static_cast<int>(p.offsets[e + 1]);
    if (end - begin > 1) hw::add_global(s.direct + p.home[e], end - begin - 1);
    for (int i = begin; i < end; i++) s.sender[i] = begin;
    widest = end - begin - 1 > widest ? end - begin - 1 : widest;
  }
  s.partial[threadIdx.x] = widest;
  hw::sync_block();
  for (u32 t = 0; t < blockDim.x; t++) widest = s.partial[t] > widest ? s.partial[t] : widest;
  for (int r = threadIdx.x; r < ranks; r += blockDim.x) s.sent[r] = s.direct[r];
  hw::sync_block();
  return widest;
}

// floor(sqrt(n) + 1/2), which is the largest k with k (k - 1) < n.
__device__ int rounded_root(int n) {
  int k = 1;
  while ((k + 1) * k < n) k++;
  return k;
}

// Choose the relays of one expert's replicas [begin, end), and deal the others out among them.
// One warp: the lanes search together.
__device__ void relay_one(const PlanArrays& p, const Scratch& s, int begin, int end) {
  const int fanout = end - begin, home_instance = begin - 1;
  int relays = rounded_root(fanout);
  relays = relays < kMaxRelays ? relays : kMaxRelays;
  int chosen[kMaxRelays];
  if (hw::lane() == 0) s.sent[p.out_rank[home_instance]] -= fanout - relays;
  hw::sync_warp();
  for (int k = 0; k < relays; k++) {
    u32 best = 0xffffffffu;
    for (int i = begin + static_cast<int>(hw::lane()); i < end; i += 32) {
      bool taken = false;
      for (int j = 0; j < k; j++) taken |= chosen[j] == i;
      const u32 key = static_cast<u32>(s.sent[p.out_rank[i]]) << kIndexBits |
                      static_cast<u32>(i - begin);
      if (!taken && key < best) best = key;
    }
    chosen[k] = begin + static_cast<int>(hw::warp_min(best) & ((1u << kIndexBits) - 1));
  }
  if (hw::lane() == 0) {
    int k = 0;
    for (int i = begin; i < end; i++) {
      bool is_relay = false;
      for (int j = 0; j < relays; j++) is_relay |= chosen[j] == i;
      if (is_relay) continue;
      s.sender[i] = chosen[k];
      s.sent[p.out_rank[chosen[k]]]++;
      k = k + 1 == relays ? 0 : k + 1;
    }
  }
  hw::sync_warp();
}

// The relay rule: widest fan-out first, then the lower expert; kept only if it is worth it.
__device__ void relay(const PlanArrays& p, const Scratch& s, int ranks, int widest) {
  if (!p.relay || widest < kMinFanout || ranks <= kSmallDomain) return;
  if (hw::warp() == 0) {
    for (int fanout = widest; fanout >= kMinFanout; fanout--) {
      for (int first = 0; first < p.experts; first += 32) {
        const int e = first + static_cast<int>(hw::lane());
        u32 hit = hw::ballot(e < p.experts && p.offsets[e + 1] - p.offsets[e] - 1 == fanout);
        while (hit) {
          const int which = first + static_cast<int>(hw::count_bits((hit & (0u - hit)) - 1));
          hit &= hit - 1;
          relay_one(p, s, static_cast<int>(p.offsets[which]) + 1,
                    static_cast<int>(p.offsets[which + 1]));
        }
      }
    }
  }
  hw::sync_block();
  int direct = 0, sent = 0;
  for (int r = 0; r < ranks; r++) {
    direct = s.direct[r] > direct ? s.direct[r] : direct;
    sent = s.sent[r] > sent ? s.sent[r] : sent;
  }
  if (direct - sent < kMinGain) {
    for (int e = threadIdx.x; e < p.experts; e += blockDim.x)
      for (i64 i = p.offsets[e]; i < p.offsets[e + 1]; i++)
        s.sender[i] = static_cast<int>(p.offsets[e]);
  }
  hw::sync_block();
}

// Group the copies by the instance that sends them.
__device__ void make_tasks(const PlanArrays& p, const TaskArrays& t, const Scratch& s, int count) {
  const int instances = static_cast<int>(p.experts) + count;
  for (int i = threadIdx.x; i < instances; i += blockDim.x) {
    s.sends[i] = 0;
    s.at[i] = -1;
  }
  hw::sync_block();
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    hw::add_global(s.sends + s.sender[s.instance[i]], 1);
  hw::sync_block();
  prefix_sum(
      instances, s.partial, [&](int i) { return s.sends[i]; },
      [&](int i, int sum) { if (i < instances) s.first[i] = sum; });
  prefix_sum(
      instances, s.partial, [&](int i) { return static_cast<int>(s.sends[i] > 0); },
      [&](int i, int sum) {
        if (i < instances) s.task[i] = sum;
        else t.counts[0] = sum;
      });
  for (int k = threadIdx.x; k < count; k += blockDim.x) {
    const int i = s.instance[k], from = s.sender[i], e = p.expert[k];
    int before = 0;
    for (int j = static_cast<int>(p.offsets[e]) + 1; j < i; j++) before += s.sender[j] == from;
    const int copy = s.first[from] + before;
    s.at[i] = copy;
    t.copy_rank[copy] = p.out_rank[i];
    t.copy_slot[copy] = p.out_slot[i];
    t.copy_instance[copy] = i;
  }
  hw::sync_block();
  for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
    const int begin = static_cast<int>(p.offsets[e]), end = static_cast<int>(p.offsets[e + 1]);
    bool feeds = false;
    for (int i = begin + 1; i < end; i++) feeds |= s.sends[i] > 0;
    for (int i = begin; i < end; i++) {
      if (s.sends[i] == 0) continue;
      const int task = s.task[i];
      t.task_expert[task] = e;
      t.task_source[task] = p.out_rank[i];
      t.task_slot[task] = p.out_slot[i];
      t.task_wait[task] = s.at[i];
      t.copy_offsets[task] = s.first[i];
      s.kind[task] = i > begin ? kForward : feeds ? kFeed : kLeaf;
    }
  }
  if (threadIdx.x == 0) {
    t.counts[1] = count;
    t.copy_offsets[t.counts[0]] = count;
  }
  hw::sync_block();
}

// Tasks of every sender, and of all together, class by class.
__device__ void make_lists(const TaskArrays& t, const Scratch& s) {
  const int tasks = t.counts[0], ranks = static_cast<int>(t.ranks);
  auto mine = [&](int list, int k, int which) {
    return s.kind[k] == which && (list == ranks || t.task_source[k] == list);
  };
  for (int list = threadIdx.x; list <= ranks; list += blockDim.x) {
    int begin = 0;
    if (list == ranks) begin = static_cast<int>(t.capacity);
    else
      for (int k = 0; k < tasks; k++) begin += t.task_source[k] < list;
    for (int which = 0; which < kClasses; which++) {
      t.list_class[list * (kClasses + 1) + which] = begin;
      for (int k = 0; k < tasks; k++)
        if (mine(list, k, which)) t.list_task[begin++] = k;
    }
    t.list_class[list * (kClasses + 1) + kClasses] = begin;
  }
  hw::sync_block();
}

}  // namespace

extern "C" __global__ void list_tasks(const PlanArrays* plan, const TaskArrays* tasks) {
  const PlanArrays& p = *plan;
  const TaskArrays& t = *tasks;
  const Scratch s = divide(p, t);
  const int count = *p.count, ranks = static_cast<int>(t.ranks);
  group(p, s, count);
  const int widest = send_directly(p, s, ranks);
  relay(p, s, ranks, widest);
  make_tasks(p, t, s, count);
  make_lists(t, s);
}

// The reduction of the same plan; runs after list_tasks, whose instances it reads.
extern "C" __global__ void list_gradients(const PlanArrays* plan, const TaskArrays* tasks,
                                          const GradientArrays* gradients) {
  const PlanArrays& p = *plan;
  const GradientArrays& g = *gradients;
  const Scratch s = divide(p, *tasks);
  const int experts = static_cast<int>(p.experts);
  auto fanout = [&](int e) { return static_cast<int>(p.offsets[e + 1] - p.offsets[e]) - 1; };
  prefix_sum(
      experts, s.partial, [&](int e) { return static_cast<int>(fanout(e) > 0); },
      [&](int e, int task) {
        if (e == experts) {
          g.counts[0] = task;
          g.counts[1] = *p.count;
          g.offsets[task] = *p.count;
        } else if (fanout(e) > 0) {
          g.expert[task] = e;
          g.home[task] = p.home[e];
          g.row[task] = g.main_row[e];
          g.offsets[task] = p.offsets[e] - e;  // replicas of the experts before
        }
      });
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    const i64 begin = p.offsets[e] + 1, end = p.offsets[e + 1], base = begin - 1 - e;
    for (i64 i = begin; i < end; i++) {
      i64 lower = 0;
      for (i64 j = begin; j < end; j++) lower += p.out_rank[j] < p.out_rank[i];
      g.rank[base + lower] = p.out_rank[i];
      g.slot[base + lower] = p.out_slot[i];
    }
  }
}

// Write every entry out, as TileList has them: for tests and for looking at.
// entry_task, entry_tile [entries] of list `list`; any grid.
extern "C" __global__ void list_entries_of(const TaskArrays* tasks, int list, int* entry_task,
                                           int* entry_tile) {
  const i64 entries = list_entries(*tasks, list);
  for (i64 k = blockIdx.x * static_cast<i64>(blockDim.x) + threadIdx.x; k < entries;
       k += static_cast<i64>(gridDim.x) * blockDim.x) {
    const Entry entry = list_entry(*tasks, list, k);
    entry_task[k] = entry.task;
    entry_tile[k] = entry.tile;
  }
}
