// Settings that follow a schedule.
#include "port.cuh"

// values = settings . factors, where `row` factors of each step are in the table: a model's own, or those of all. With
// two values a setting, the second one is 1/(1 - the first). gridDim = (blocks, 1, models).
__global__ void __launch_bounds__(256) follow_schedule(
    const double* table,     // [steps, row]
    const i64* position,     // [1]
    const double* settings,  // [models, n]
    double* values,          // [models, size]
    i64 settings_step, i64 values_step, i64 steps, i64 row, i64 n, i64 size) {
  const i64 now = *position < steps ? *position : steps - 1;
  const double* const factors = table + now * row + (row > n ? blockIdx.z * n : 0);
  const double* const of = settings + blockIdx.z * settings_step;
  double* const to = values + blockIdx.z * values_step;
  for (i64 c = i64(blockIdx.x) * blockDim.x + threadIdx.x; c < n; c += i64(gridDim.x) * blockDim.x) {
    const double value = of[c] * factors[c];
    if (size == n) {
      to[c] = value;
    } else {
      to[2 * c] = value;
      to[2 * c + 1] = 1 / (1 - value);
    }
  }
}
