// Metrics, which no gradient is made of.
#include "port.hpp"

// sums += the sum over the rows of w |y - t| and of w (y - t)^2, for each output
BP_CPU void residual_sums(
    const real* y,        // [models, rows, cols]
    const real* target,   // [models, rows, cols]
    const real* weights,  // [models, rows]?
    double* sums,         // [models, 2, cols]
    i64 models, i64 rows, i64 cols, i64 part, i64 parts) {
  const i64 most = 64;
  const Range r = part_of(cols, part, parts, most);
  for (i64 m = 0; m < models; m++)
    for (i64 c = r.begin; c < r.end; c += most) {
      const i64 n = r.end - c < most ? r.end - c : most;
      double absolute[most] = {}, squared[most] = {};
      for (i64 row = m * rows; row < (m + 1) * rows; row++) {
        const real w = weights ? weights[row] : real(1);
        for (i64 k = 0; k < n; k++) {
          const real d = y[row * cols + c + k] - target[row * cols + c + k];
          absolute[k] += double((d < real(0) ? -d : d) * w), squared[k] += double(d * d * w);
        }
      }
      double* const to = sums + m * 2 * cols + c;
      for (i64 k = 0; k < n; k++) to[k] += absolute[k], to[cols + k] += squared[k];
    }
}
