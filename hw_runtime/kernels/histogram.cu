// Load histogram: how many tokens of this rank chose each expert, and each chunk's share of them.
//
// A chunk is a run of consecutive pairs (or tokens, in the dense form); one block counts one chunk.
// The scan turns the chunks' counts into the number of pairs before the chunk, which is where the
// reroute starts to number tokens, and writes the totals into this rank's row of every receiver's
// load matrix (int32 [ranks, stride]): that is the count exchange, a barrier after it makes it
// visible. Nothing has to be zeroed before: every word is written by exactly one thread.
#include "ptx.cuh"

namespace hw {

template <typename Id>
__device__ FORCE_INLINE void count_chunk(const Id* ids, i64 pairs, int chunk_pairs, int experts,
                                         int* counts, int* errors) {
  DYNAMIC_SHARED(memory);
  __shared__ u32 bad;
  int* bins = reinterpret_cast<int*>(memory);
  const int me = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int e = me; e < experts; e += step) bins[e] = 0;
  if (me == 0) bad = 0;
  sync_block();
  const i64 begin = static_cast<i64>(blockIdx.x) * chunk_pairs;
  const i64 end = begin + chunk_pairs < pairs ? begin + chunk_pairs : pairs;
  for (i64 at = begin + me; at < end; at += step) {
    const i64 id = ids[at];
    if (id >= 0 && id < experts) {
      add_shared(&bins[id], 1);
    } else if (id != -1) {  // -1 is padding
      add_shared(&bad, 1u);
    }
  }
  sync_block();
  for (int e = me; e < experts; e += step)
    counts[static_cast<i64>(blockIdx.x) * experts + e] = bins[e];
  if (me == 0) errors[blockIdx.x] = static_cast<int>(bad);
}

}  // namespace hw

// ids [pairs]; counts [chunks, experts], errors [chunks]: ids outside 0..experts-1 that are not -1.
extern "C" __global__ void histogram_i16(const short* ids, i64 pairs, int chunk_pairs, int experts,
                                         int* counts, int* errors) {
  hw::count_chunk(ids, pairs, chunk_pairs, experts, counts, errors);
}

extern "C" __global__ void histogram_i32(const int* ids, i64 pairs, int chunk_pairs, int experts,
                                         int* counts, int* errors) {
  hw::count_chunk(ids, pairs, chunk_pairs, experts, counts, errors);
}

extern "C" __global__ void histogram_i64(const i64* ids, i64 pairs, int chunk_pairs, int experts,
                                         int* counts, int* errors) {
  hw::count_chunk(ids, pairs, chunk_pairs, experts, counts, errors);
}

// chosen [tokens, experts], not zero where a token goes to an expert.
extern "C" __global__ void histogram_dense(const u8* chosen, int tokens, int chunk_tokens,
                                           int experts, int* counts, int* errors) {
  const int begin = static_cast<int>(blockIdx.x) * chunk_tokens;
  const int end = begin + chunk_tokens < tokens ? begin + chunk_tokens : tokens;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    int count = 0;
#pragma unroll 8
    for (int t = begin; t < end; t++) count += chosen[static_cast<i64>(t) * experts + e] != 0;
    counts[static_cast<i64>(blockIdx.x) * experts + e] = count;
  }
  if (threadIdx.x == 0) errors[blockIdx.x] = 0;
}

// counts [chunks, experts] becomes the exclusive sum over chunks, in place. totals [experts] and
// error [1] are this rank's own; rows [receivers] are addresses of this rank's row in each
// receiver's load matrix.
extern "C" __global__ void histogram_scan(int* counts, const int* errors, int chunks, int experts,
                                          int* totals, int* error, const u64* rows,
                                          int receivers) {
  const int step = static_cast<int>(blockDim.x * gridDim.x);
  const int me = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  for (int e = me; e < experts; e += step) {
    int before = 0;
#pragma unroll 8
    for (int c = 0; c < chunks; c++) {
      const i64 at = static_cast<i64>(c) * experts + e;
      const int here = counts[at];
      counts[at] = before;
      before += here;
    }
    totals[e] = before;
    for (int r = 0; r < receivers; r++) reinterpret_cast<int*>(rows[r])[e] = before;
  }
  if (me == 0) {
    int bad = 0;
    for (int c = 0; c < chunks; c++) bad += errors[c];
    *error = bad;
  }
}
