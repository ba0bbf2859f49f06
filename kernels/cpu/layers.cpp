// Forward and backward of the layers, where no activation is involved.
#include "columns.hpp"

// z = x + b
BP_CPU void add_bias(
    const real* x,  // [models, rows, cols] by rows
    const real* b,  // [models, cols]
    real* z,        // [models, rows, cols] by rows
    i64 x_step, i64 b_step, i64 models, i64 rows, i64 cols, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for (i64 m = 0; m < models; m++, x += x_step, z += rows * cols)
    with_bias(r, cols, b + m * b_step, [=](i64 i, real bias) { z[i] = x[i] + bias; });
}

// grad_bias = the sum of grad_z over the rows
BP_CPU void column_sum(
    const real* grad_z,  // [models, rows, cols] by rows
    real* grad_bias,     // [models, cols]
    real* partial,       // [threads, models, width]
    i64* ticket,          // [1]
    i64 grad_bias_step, i64 models, i64 rows, i64 cols, i64 threads, i64 width, i64 part, i64 parts) {
  const ColumnSums sums = {grad_bias, partial, ticket, grad_bias_step, width, models, cols, part, parts};
  for (i64 m = 0; m < models; m++, grad_z += rows * cols)
    sum_columns(rows_of(rows, part, parts), cols, sums.of(m), [=](i64 i) { return grad_z[i]; });
  sums.finish();
}

// out = a . b
BP_CPU void multiply(
    const real* a,  // [models, rows, cols] by rows
    const real* b,  // [models, rows, cols] by rows
    real* out,      // [models, rows, cols] by rows, may be a or b
    i64 models, i64 rows, i64 cols, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for (i64 m = 0; m < models; m++, a += rows * cols, b += rows * cols, out += rows * cols) {
    BP_LANES
    for (i64 i = r.begin * cols; i < r.end * cols; i++) out[i] = a[i] * b[i];
  }
}
