// Bulk asynchronous copies, their barriers, and memory that other GPUs read and write. Kernels call
// these names only: on the host tests/hw_runtime/shim/grid.h stands in this one's place.
#pragma once
#include "ptx.cuh"

namespace hw {

__device__ FORCE_INLINE u32 shared_address(const void* at) {
  return static_cast<u32>(__cvta_generic_to_shared(at));
}

// mbarrier in shared memory: one arrival a phase, and the bytes that a bulk load brings.
__device__ FORCE_INLINE void barrier_init(u64* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}
// The copy engine must see an initialised barrier.
__device__ FORCE_INLINE void barrier_init_done() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ FORCE_INLINE void barrier_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ FORCE_INLINE bool barrier_done(u64* barrier, u32 parity) {
  u32 done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

// Addresses and sizes are multiples of 16.
__device__ FORCE_INLINE void bulk_load(void* shared, const void* global, u32 bytes, u64* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
__device__ FORCE_INLINE void bulk_store(void* global, const void* shared, u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(global)),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
__device__ FORCE_INLINE void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most `Pending` groups of this thread are not complete: written, not only read.
template <int Pending>
__device__ FORCE_INLINE void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
}
// Between accesses of this thread and of the copy engine to global memory, both ways.
__device__ FORCE_INLINE void fence_copy_engine() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

__device__ FORCE_INLINE u64 acquire_system(const u64* at) {
  u64 value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
  return value;
}
__device__ FORCE_INLINE void release_system(u64* at, u64 value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
}
__device__ FORCE_INLINE void fence_system() {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
}
// Among the blocks of one GPU; returns the value before.
__device__ FORCE_INLINE u32 add_gpu(u32* at, u32 value) {
  u32 before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(at), "r"(value)
               : "memory");
  return before;
}

// What another thread may change at any time, without order.
__device__ FORCE_INLINE u64 read_volatile(const u64* at) {
  return *static_cast<const volatile u64*>(at);
}
__device__ FORCE_INLINE u64 nanoseconds() {
  u64 now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}
__device__ FORCE_INLINE void pause(u32 at_most) {
  asm volatile("nanosleep.u32 %0;" ::"r"(at_most));
}

}  // namespace hw
