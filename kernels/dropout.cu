// Dropout: the masks are those of the CPU, bit for bit.
#include "port.cuh"
#include "philox.cuh"

// mask = [u >= rate]/(1 - rate), y = x . mask. Every row begins with a block of eight random numbers of its own; the
// block's counter is (its place among all + 1, step, 0, 0), its key (seed, layer). Rows are counted from first_row on.
// blockDim = (blocks of a row, rows).
template<class T, int V>
__global__ void __launch_bounds__(256, 4) dropout(
    const T* x,            // [models, rows, cols]
    const double* rates,   // [models, 2] rate, 1/(1 - rate)
    const u64* rng_state,  // [models, 3] seed, layer, step
    T* y,                  // [models, rows, cols]
    T* mask,               // [models, rows, cols]
    i64 rates_step, i64 rng_state_step, i64 first_row, i64 rows, int cols) {
  const int blocks = (cols + 7) / 8, block = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (block >= blocks) return;
  const u64* const state = rng_state + blockIdx.z * rng_state_step;
  const float rate = float(rates[blockIdx.z * rates_step]);
  const T kept = from_acc<T>(acc<T>(rates[blockIdx.z * rates_step + 1])), zero = from_acc<T>(acc<T>(0));
  BP_ROLLED
  for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
    const Philox numbers = philox(u64(first_row + r) * blocks + block + 1, state[2], 0, 0, state[0], state[1]);
    for (int e = 0; e < 8; e += V) {  // always eight, so that the numbers stay in registers
      if (block * 8 + e >= cols) break;
      const i64 i = (blockIdx.z * rows + r) * cols + block * 8 + e;
      Vec<T, V> xs = load<V>(x + i), masks;
      for (int k = 0; k < V; k++) {
        masks.at[k] = uniform(numbers, e + k) >= rate ? kept : zero;
        xs.at[k] = from_acc<T>(to_acc(xs.at[k]) * to_acc(masks.at[k]));
      }
      store(mask + i, masks);
      store(y + i, xs);
    }
  }
}
