#include "port.cuh"

// differing += the threads that find a byte of a which is not that of b
__global__ void __launch_bounds__(256) compare(
    const u8* a,     // [models, n]
    const u8* b,     // [models, n]
    u32* differing,  // [1]
    i64 a_step, i64 b_step, i64 n) {
  a += blockIdx.z * a_step;
  b += blockIdx.z * b_step;
  bool found = false;
  BP_ROLLED
  for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += i64(gridDim.x) * blockDim.x)
    found |= a[i] != b[i];
  if (found) atomicAdd(differing, 1u);
}
