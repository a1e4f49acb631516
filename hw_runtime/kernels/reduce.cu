// Add replica gradients to their mains: the main first, then the replicas by ascending rank, in
// fp32, rounded once at the end; replicas are zeroed as they are read. No atomics, so the bits do
// not depend on timing. The grid is the SM budget: a block takes every gridDim-th tile.
#include "ptx_copy.cuh"

constexpr int kUnit = 4;          // elements a thread reads at once: 16 bytes of fp32, 8 of bf16
constexpr int kUnits = 4;         // independent units a thread keeps under way
constexpr int kThreads = 256;
constexpr i64 kTile = kThreads * kUnit * kUnits;  // elements

// Every field is 8 bytes.
struct ReduceArgs {
  const int* counts;   // [2]: tasks, replicas
  const int* expert;   // [tasks]
  const int* home;     // [tasks]
  const i64* offsets;  // [tasks + 1]
  const int* rank;     // [replicas], ascending inside a task
  const int* slot;     // [replicas]
  u8* const* mains;    // [experts], of this process
  u8* const* slots;    // [ranks], gradients of this set
  i64 slot_stride;     // bytes
  i64 elements;
  i64 list;            // a rank, or `ranks` for all of them on one GPU
  i64 ranks;
};

namespace {

struct alignas(16) Four {
  u32 word[4];
};
struct alignas(8) Two {
  u32 word[2];
};

__device__ FORCE_INLINE float as_float(u32 bits) {
  union { u32 u; float f; } both;
  both.u = bits;
  return both.f;
}
__device__ FORCE_INLINE u32 as_bits(float value) {
  union { u32 u; float f; } both;
  both.f = value;
  return both.u;
}
// To nearest, ties to even; a NaN becomes the quiet 0x7FFF (hw_runtime.bf16 does the same).
__device__ FORCE_INLINE u32 round_bf16(float value) {
  const u32 bits = as_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

struct Fp32 {
  static constexpr i64 kBytes = 4;
  typedef Four Vector;
  __device__ static float get(const u8* at) { return *reinterpret_cast<const float*>(at); }
  __device__ static void put(u8* at, float value) { *reinterpret_cast<float*>(at) = value; }
  __device__ static void unpack(const Vector& in, float* out) {
    for (int i = 0; i < 4; i++) out[i] = as_float(in.word[i]);
  }
  __device__ static Vector pack(const float* in) {
    return {{as_bits(in[0]), as_bits(in[1]), as_bits(in[2]), as_bits(in[3])}};
  }
};

struct Bf16 {
  static constexpr i64 kBytes = 2;
  typedef Two Vector;
  __device__ static float get(const u8* at) {
    return as_float(static_cast<u32>(*reinterpret_cast<const u16*>(at)) << 16);
  }
  __device__ static void put(u8* at, float value) {
    *reinterpret_cast<u16*>(at) = static_cast<u16>(round_bf16(value));
  }
  __device__ static void unpack(const Vector& in, float* out) {
    for (int i = 0; i < 2; i++) {
      out[2 * i] = as_float(in.word[i] << 16);
      out[2 * i + 1] = as_float(in.word[i] & 0xffff0000u);
    }
  }
  __device__ static Vector pack(const float* in) {
    return {{round_bf16(in[0]) | round_bf16(in[1]) << 16,
             round_bf16(in[2]) | round_bf16(in[3]) << 16}};
  }
};

template <typename T>
__device__ FORCE_INLINE bool aligned(const u8* at) {
  return (reinterpret_cast<u64>(at) & (sizeof(typename T::Vector) - 1)) == 0;
}

__device__ FORCE_INLINE u8* replica(const ReduceArgs& a, i64 i) {
  return a.slots[a.rank[i]] + a.slot[i] * a.slot_stride;
}

// A whole tile in vectors: kUnits of them per thread and address are loaded before any is added.
template <typename Main, typename Replica>
__device__ void add_whole(const ReduceArgs& a, u8* main, i64 begin, i64 first, i64 last) {
  typename Main::Vector* to = reinterpret_cast<typename Main::Vector*>(main + begin * Main::kBytes);
  float sum[kUnits][kUnit];
#pragma unroll
  for (int u = 0; u < kUnits; u++) Main::unpack(to[u * kThreads + threadIdx.x], sum[u]);
  for (i64 i = first; i < last; i++) {
    typename Replica::Vector* from = reinterpret_cast<typename Replica::Vector*>(
        replica(a, i) + begin * Replica::kBytes);
    typename Replica::Vector read[kUnits];
#pragma unroll
    for (int u = 0; u < kUnits; u++) read[u] = from[u * kThreads + threadIdx.x];
#pragma unroll
    for (int u = 0; u < kUnits; u++) {
      float value[kUnit];
      Replica::unpack(read[u], value);
#pragma unroll
      for (int j = 0; j < kUnit; j++) sum[u][j] += value[j];
      from[u * kThreads + threadIdx.x] = {};
    }
  }
#pragma unroll
  for (int u = 0; u < kUnits; u++) to[u * kThreads + threadIdx.x] = Main::pack(sum[u]);
}

// The rest of a gradient, or rows that are not aligned: element by element.
template <typename Main, typename Replica>
__device__ void add_single(const ReduceArgs& a, u8* main, i64 begin, i64 end, i64 first, i64 last) {
  for (i64 e = begin + threadIdx.x; e < end; e += blockDim.x) {
    float sum = Main::get(main + e * Main::kBytes);
    for (i64 i = first; i < last; i++) {
      u8* from = replica(a, i) + e * Replica::kBytes;
      sum += Replica::get(from);
      Replica::put(from, 0.0f);
    }
    Main::put(main + e * Main::kBytes, sum);
  }
}

template <typename Main, typename Replica>
__device__ void reduce(const ReduceArgs& a) {
  const i64 tiles = (a.elements + kTile - 1) / kTile;
  i64 skip = blockIdx.x;  // tiles until this block's next
  for (int task = 0; task < a.counts[0]; task++) {
    if (a.list != a.ranks && a.home[task] != a.list) continue;
    const i64 first = a.offsets[task], last = a.offsets[task + 1];
    u8* main = a.mains[a.expert[task]];
    for (; skip < tiles; skip += gridDim.x) {
      const i64 begin = skip * kTile;
      const i64 end = begin + kTile < a.elements ? begin + kTile : a.elements;
      if (end - begin == kTile && aligned<Main>(main) && blockDim.x == kThreads) {
        add_whole<Main, Replica>(a, main, begin, first, last);
      } else {
        add_single<Main, Replica>(a, main, begin, end, first, last);
      }
    }
    skip -= tiles;
  }
  hw::fence_system();  // zeros are there before whoever waits behind the barrier writes again
}

}  // namespace

// reduce_MAIN_REPLICA; 256 threads a block, gridDim.x = SMs to use.
extern "C" __global__ void __launch_bounds__(256) reduce_fp32_fp32(const ReduceArgs* a) {
  reduce<Fp32, Fp32>(*a);
}
extern "C" __global__ void __launch_bounds__(256) reduce_fp32_bf16(const ReduceArgs* a) {
  reduce<Fp32, Bf16>(*a);
}
extern "C" __global__ void __launch_bounds__(256) reduce_bf16_fp32(const ReduceArgs* a) {
  reduce<Bf16, Fp32>(*a);
}
extern "C" __global__ void __launch_bounds__(256) reduce_bf16_bf16(const ReduceArgs* a) {
  reduce<Bf16, Bf16>(*a);
}
