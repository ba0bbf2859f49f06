// Forward and backward of the layers: activations and their gradients.
#include "columns.hpp"

// y = f(z + b)
template<class F>
BP_CPU void bias_activate(
    real* z,        // [models, rows, cols] by rows, becomes z + b where store_z is 1
    const real* b,  // [models, cols]?
    real* y,        // [models, rows, cols] by rows, may be z
    i64 b_step, i64 models, i64 rows, i64 cols, i64 store_z, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for (i64 m = 0; m < models; m++, z += rows * cols, y += rows * cols) {
    if (!b) {
      BP_LANES
      for (i64 i = r.begin * cols; i < r.end * cols; i++) y[i] = F::value(z[i]);
    } else if (store_z) {
      with_bias(r, cols, b + m * b_step, [=](i64 i, real bias) {
        const real a = z[i] + bias;
        z[i] = a, y[i] = F::value(a);
      });
    } else {
      with_bias(r, cols, b + m * b_step, [=](i64 i, real bias) { y[i] = F::value(z[i] + bias); });
    }
  }
}

// grad_z = grad_y . f'(s), and on the way grad_bias, its sum over the rows
template<class F>
BP_CPU void activation_gradient(
    const real* grad_y,  // [models, rows, cols] by rows
    const real* s,       // [models, rows, cols]? by rows, null where f' is 1
    real* grad_z,        // [models, rows, cols] by rows, may be grad_y
    real* grad_bias,     // [models, cols]?
    real* partial,       // [threads, models, width]? null where there is no grad_bias
    i64* ticket,          // [1]? likewise
    i64 grad_bias_step, i64 models, i64 rows, i64 cols, i64 threads, i64 width, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const ColumnSums sums = {grad_bias, partial, ticket, grad_bias_step, width, models, cols, part, parts};
  if (!s) s = grad_y;
  for (i64 m = 0; m < models; m++, grad_y += rows * cols, s += rows * cols, grad_z += rows * cols) {
    if (grad_bias) {
      sum_columns(r, cols, sums.of(m), [=](i64 i) { return grad_z[i] = grad_y[i] * F::slope(s[i]); });
    } else {
      BP_LANES
      for (i64 i = r.begin * cols; i < r.end * cols; i++) grad_z[i] = grad_y[i] * F::slope(s[i]);
    }
  }
  sums.finish();
}
