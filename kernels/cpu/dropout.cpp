// Dropout: the masks are NumPy's, bit for bit.
#include "columns.hpp"
#include "../philox.cuh"

// The halves of the words of n/8 blocks, from a counter on: a function of its own, so that it has the registers.
__attribute__((noinline)) static void draw(u32* halves, i64 n, u64 counter, u64 step, u64 seed, u64 layer) {
  for (i64 k = 0; k < n; k += 8) {
    const Philox block = philox(counter++, step, 0, 0, seed, layer);
    for (int i = 0; i < 8; i++) halves[k + i] = u32(block.word[i / 2] >> 32 * (i % 2));
  }
}

// mask = [u >= rate]/(1 - rate), y = x . mask, with the random numbers that kernels/dropout.cu takes
BP_CPU void dropout(
    const real* x,         // [models, rows, cols] by rows
    const double* rates,   // [models, 2] rate, 1/(1 - rate)
    const i64* rng_state,  // [models, 3] seed, layer, step
    real* y,               // [models, rows, cols] by rows
    real* mask,            // [models, rows, cols] by rows
    i64 x_step, i64 rates_step, i64 rng_state_step, i64 models, i64 rows, i64 cols, i64 first_row, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const i64 width = (cols + 7) / 8 * 8;  // random numbers of a row
  for (i64 m = 0; m < models; m++, x += x_step, y += rows * cols, mask += rows * cols) {
    const i64* const state = rng_state + m * rng_state_step;
    const float rate = float(rates[m * rates_step]);
    const real kept = real(rates[m * rates_step + 1]);
    for (i64 first = r.begin * width, end; first < r.end * width; first = end) {
      u32 halves[BLOCK];
      end = least_of(first + BLOCK, r.end * width);
      draw(halves, end - first, u64(first_row * width + first) / 8 + 1, u64(state[2]), u64(state[0]), u64(state[1]));
      for (i64 row = first / width; row * width < end; row++) {
        const i64 begin = row * width, n = least_of(cols, end - begin), back = row * (width - cols);
        BP_LANES
        for (i64 k = begin < first ? first : begin; k < begin + n; k++) {
          const real of_mask = uniform(halves[k - first]) >= rate ? kept : real(0.0);
          mask[k - back] = of_mask, y[k - back] = x[k - back] * of_mask;
        }
      }
    }
  }
}
