// Forward and backward of what has a factor for each column.
#include "columns.hpp"

// z = x . s
BP_CPU void scale_columns(
    const real* x,        // [models, rows, cols] by rows
    const real* factors,  // [models, cols]
    real* z,              // [models, rows, cols] by rows, may be x
    i64 factors_step, i64 models, i64 rows, i64 cols, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for (i64 m = 0; m < models; m++, x += rows * cols, z += rows * cols)
    with_bias(r, cols, factors + m * factors_step, [=](i64 i, real s) { z[i] = x[i] * s; });
}

// grad_factors = the sum of x . grad_z over the rows, and then grad_x = grad_z . s
BP_CPU void scale_columns_gradient(
    const real* x,        // [models, rows, cols] by rows
    const real* grad_z,   // [models, rows, cols] by rows
    const real* factors,  // [models, cols]? null where there is no grad_x
    real* grad_x,         // [models, rows, cols]? by rows, may be grad_z
    real* grad_factors,   // [models, cols]
    real* partial,        // [threads, models, width]
    i64* ticket,           // [1]
    i64 factors_step, i64 grad_factors_step, i64 models, i64 rows, i64 cols, i64 threads, i64 width, i64 part,
    i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const ColumnSums sums = {grad_factors, partial, ticket, grad_factors_step, width, models, cols, part, parts};
  for (i64 m = 0; m < models; m++) {
    const i64 first = m * rows * cols;
    sum_columns(r, cols, sums.of(m), [=](i64 i) { return x[first + i] * grad_z[first + i]; });
    if (!grad_x) continue;
    const real* const from = grad_z + first;
    real* const to = grad_x + first;
    with_bias(r, cols, factors + m * factors_step, [=](i64 i, real s) { to[i] = from[i] * s; });
  }
  sums.finish();
}
