// The task list of a distribution on the device: the arrays of ultraep_sim.fabric.tiles.TileList,
// and which tile the k-th entry of a list is. Entries need not be stored: class by class, inside a
// class chunk by chunk over all its tasks, is arithmetic.
#pragma once
#include "ptx.cuh"

// Classes of tasks, in list order: homes feed relays, homes send to the others, relays forward.
constexpr int kFeed = 0, kLeaf = 1, kForward = 2, kClasses = 3;

// Every field is 8 bytes, so that the host can write it as an array of int64.
struct TaskArrays {
  int* counts;            // [2]: tasks, copies
  int* task_expert;       // [tasks]
  int* task_source;       // [tasks]
  int* task_slot;         // [tasks], -1 where the source is the home
  i64* task_wait;         // [tasks], copy that must arrive first, or -1
  i64* copy_offsets;      // [tasks + 1]
  int* copy_rank;         // [copies]
  int* copy_slot;         // [copies]
  i64* copy_instance;     // [copies]
  int* list_task;         // [2 x capacity]: tasks of lists 0..ranks - 1, then those of list `ranks`
  int* list_class;        // [ranks + 1, 4]: where each class of a list begins in list_task, the end
  i64 ranks, capacity;    // capacity: ranks x slots, no list has more tasks
  i64 tiles, chunk_tiles; // of a copy, of a chunk
};

struct Entry {
  int task, tile;
};

// Entries of list `list`.
__device__ FORCE_INLINE i64 list_entries(const TaskArrays& a, int list) {
  const int* begin = a.list_class + list * (kClasses + 1);
  return static_cast<i64>(begin[kClasses] - begin[0]) * a.tiles;
}

// The k-th entry of a list, k in [0, list_entries).
__device__ FORCE_INLINE Entry list_entry(const TaskArrays& a, int list, i64 k) {
  const int* begin = a.list_class + list * (kClasses + 1);
  int which = 0;
  while (k >= static_cast<i64>(begin[which + 1] - begin[which]) * a.tiles) {
    k -= static_cast<i64>(begin[which + 1] - begin[which]) * a.tiles;
    which++;
  }
  const i64 tasks = begin[which + 1] - begin[which];
  const i64 chunk = k / (tasks * a.chunk_tiles);
  const i64 first = chunk * a.chunk_tiles;
  const i64 width = first + a.chunk_tiles <= a.tiles ? a.chunk_tiles : a.tiles - first;
  const i64 rest = k - first * tasks;
  const int task = a.list_task[begin[which] + rest / width];
  return {task, static_cast<int>(first + rest % width)};
}
