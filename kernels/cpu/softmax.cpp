// softmax as an activation, which mixes the units of a row, and the product with its Jacobian.
#include "softmax_row.hpp"

// y = e^(v - max v)/sum of e^(v - max v), v = z + b
BP_CPU void softmax(
    real* z,        // [models, rows, cols] by rows, becomes z + b where store_z is 1
    const real* b,  // [models, cols]?
    real* y,        // [models, rows, cols] by rows, may be z
    real* room,     // [threads, width]
    i64 b_step, i64 models, i64 rows, i64 cols, i64 store_z, i64 threads, i64 width, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const SoftmaxRow row = {room + part * width, cols, width};
  for (i64 m = 0; m < models; m++, z += rows * cols, y += rows * cols)
    for (i64 i = r.begin * cols; i < r.end * cols; i += cols) {
      row.load(z + i, b ? b + m * b_step : b);
      if (store_z && b) row.store(z + i, [=](i64 c) { return row.v[c]; });
      const real share = real(1) / row.exponentials(row.v[row.largest()]);
      row.store(y + i, [=](i64 c) { return row.v[c] * share; });
    }
}

// grad_z = y . (grad_y - <grad_y, y>), which is grad_y times diag(y) - y y^T
BP_CPU void softmax_gradient(
    const real* grad_y,  // [models, rows, cols] by rows
    const real* y,       // [models, rows, cols] by rows
    real* grad_z,        // [models, rows, cols] by rows, may be grad_y
    i64 models, i64 rows, i64 cols, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for (i64 m = 0; m < models; m++, grad_y += rows * cols, y += rows * cols, grad_z += rows * cols)
    for (i64 i = r.begin * cols; i < r.end * cols; i += cols) {
      const real *const g = grad_y + i, *const p = y + i;
      const real dot = sum_of_terms(cols, [=](i64 c) { return g[c] * p[c]; });
      BP_LANES
      for (i64 c = 0; c < cols; c++) grad_z[i + c] = p[c] * (g[c] - dot);
    }
}
