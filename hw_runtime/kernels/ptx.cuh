// Everything that is not plain C++: warp collectives, barriers, atomics. Kernels call these names
// only, so a host can run the same sources with another file in this one's place
// (tests/hw_runtime/shim). No CUDA header is included: NVRTC knows the built-in names used here.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;

#define ALL_LANES 0xffffffffu

// Dynamic shared memory of the launch, one block's worth.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u8 name[]

#define FORCE_INLINE __forceinline__
#define NO_INLINE __noinline__

namespace hw {

__device__ FORCE_INLINE u32 lane() { return threadIdx.x & 31u; }
__device__ FORCE_INLINE u32 warp() { return threadIdx.x >> 5; }

__device__ FORCE_INLINE void sync_block() { __syncthreads(); }
__device__ FORCE_INLINE void sync_warp() { __syncwarp(ALL_LANES); }

// One instruction each since sm_80 (redux.sync); all 32 lanes take part.
__device__ FORCE_INLINE u32 warp_max(u32 value) { return __reduce_max_sync(ALL_LANES, value); }
__device__ FORCE_INLINE u32 warp_min(u32 value) { return __reduce_min_sync(ALL_LANES, value); }
__device__ FORCE_INLINE u32 warp_sum(u32 value) { return __reduce_add_sync(ALL_LANES, value); }

__device__ FORCE_INLINE u32 ballot(bool value) { return __ballot_sync(ALL_LANES, value); }
__device__ FORCE_INLINE int shuffle(int value, u32 from) {
  return __shfl_sync(ALL_LANES, value, from);
}
__device__ FORCE_INLINE u32 shuffle_up(u32 value, u32 by) {
  return __shfl_up_sync(ALL_LANES, value, by);
}
// The lanes that hold the same value.
__device__ FORCE_INLINE u32 same_value(u32 value) { return __match_any_sync(ALL_LANES, value); }
__device__ FORCE_INLINE u32 count_bits(u32 value) { return static_cast<u32>(__popc(value)); }

__device__ FORCE_INLINE void add_shared(u32* at, u32 value) { atomicAdd(at, value); }
__device__ FORCE_INLINE void add_shared(int* at, int value) { atomicAdd(at, value); }
__device__ FORCE_INLINE void add_shared(u64* at, u64 value) { atomicAdd(at, value); }
__device__ FORCE_INLINE void max_shared(u32* at, u32 value) { atomicMax(at, value); }
__device__ FORCE_INLINE void or_shared(u32* at, u32 value) { atomicOr(at, value); }
__device__ FORCE_INLINE void add_global(int* at, int value) { atomicAdd(at, value); }

}  // namespace hw
