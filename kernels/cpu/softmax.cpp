// softmax as an activation, which mixes the units of a row, and the product with its Jacobian.
#include "softmax_row.hpp"

static const i64 WORTH = 3;  // units for each row, up to which LANES rows side by side take less time than one by one

// y = e^(v - max v)/sum of e^(v - max v), v = z + b, of up to LANES rows side by side
static void softmax_side_by_side(real* z, const real* bias, real* y, i64 rows, i64 cols, bool store_z) {
  real block[WORTH * LANES * LANES], top[LANES], share[LANES];
  int place[LANES];
  for (i64 i = 0; i < cols * LANES && rows < LANES; i++) block[i] = real(0);
  const TransposedRows v = {block, rows, cols};
  v.load(z, bias);
  if (store_z) v.store(z);
  v.largest(top, place);
  v.exponentials(top, share);
  for (i64 k = 0; k < LANES; k++) share[k] = real(1) / share[k];
  for (i64 i = 0; i < cols * LANES; i += LANES)
    for (i64 k = 0; k < LANES; k++) block[i + k] *= share[k];
  v.store(y);
}

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
    for (i64 first = r.begin, some; first < r.end; first += some) {
      some = least_of(LANES, r.end - first);
      const real* const bias = b ? b + m * b_step : b;
      real *const from = z + first * cols, *const to = y + first * cols;
      if (cols <= WORTH * some) {
        softmax_side_by_side(from, bias, to, some, cols, store_z && b);
        continue;
      }
      some = 1;
      row.load(from, bias);
      if (store_z && b) row.store(from, [=](i64 c) { return row.v[c]; });
      const real share = real(1) / row.exponentials(row.v[row.largest()]);
      row.store(to, [=](i64 c) { return row.v[c] * share; });
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
