// The search for a threshold that both planners make: rounds of equally spaced probes.
#pragma once
#include "ptx.cuh"

namespace hw {

constexpr int PROBES = 7;
constexpr int RESOLUTION = 1024;

struct Interval {
  i64 low, high, tolerance;
};

__device__ FORCE_INLINE Interval interval(i64 low, i64 high, i64 mean) {
  return {low, high, mean / RESOLUTION > 1 ? mean / RESOLUTION : 1};
}

__device__ FORCE_INLINE bool narrow(const Interval& s) { return s.high - s.low <= s.tolerance; }

// The j-th threshold of a round (j from 1).
__device__ FORCE_INLINE i64 spaced(const Interval& s, int j) {
  return s.low + (s.high - s.low) * j / (PROBES + 1);
}

// Look at a round's probes as the CPU would have made them, one by one: the smallest threshold that
// succeeded becomes the upper end. Its j, or 0. `found` [PROBES] holds -1 for failures.
__device__ int shrink(Interval& s, const int* found) {
  i64 below = s.low, high = s.high;
  int best = 0;
  for (int j = 1; j <= PROBES && !best; j++) {
    const i64 tau = spaced(s, j);
    if (tau == below) continue;
    if (found[j - 1] >= 0) {
      high = tau;
      best = j;
    } else {
      below = tau;
    }
  }
  s.low = below;
  s.high = high;
  return best;
}

}  // namespace hw
