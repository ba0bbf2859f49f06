// Dropout: the masks are NumPy's, bit for bit.
#include "columns.hpp"
#include "../philox.cuh"

// mask = [u >= rate]/(1 - rate), y = x . mask, with the random numbers that kernels/dropout.cu takes
BP_CPU void dropout(
    const real* x,         // [models, rows, cols] by rows
    const double* rates,   // [models, 2] rate, 1/(1 - rate)
    const i64* rng_state,  // [models, 3] seed, layer, step
    real* y,               // [models, rows, cols] by rows
    real* mask,            // [models, rows, cols] by rows
    i64 x_step, i64 rates_step, i64 rng_state_step, i64 models, i64 rows, i64 cols, i64 first_row, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const i64 blocks = (cols + 7) / 8;
  for (i64 model = 0; model < models; model++, x += x_step, rng_state += rng_state_step, rates += rates_step) {
    const float rate = float(rates[0]);
    const real kept = real(rates[1]);
    const u64 seed = u64(rng_state[0]), layer = u64(rng_state[1]), step = u64(rng_state[2]);
    for (i64 row = r.begin; row < r.end; row++)
      for (i64 c = 0; c < cols; c += BLOCK) {
        const i64 n = least_of(BLOCK, cols - c), first = row * cols + c, to = model * rows * cols + first;
        u32 halves[BLOCK];
        for (i64 k = 0; k < n; k += 8) {
          const u64 block = u64((first_row + row) * blocks + (c + k) / 8 + 1);
          const Philox numbers = philox(block, step, 0, 0, seed, layer);
          __builtin_memcpy(halves + k, numbers.word, sizeof numbers.word);
        }
        BP_LANES
        for (i64 k = 0; k < n; k++) {
          const real of_mask = uniform(halves[k]) >= rate ? kept : real(0.0);
          mask[to + k] = of_mask, y[to + k] = x[first + k] * of_mask;
        }
      }
  }
}
