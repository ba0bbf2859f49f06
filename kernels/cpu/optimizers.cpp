// Averages of two buffers, and what bounds the norms of gradients and weights.
#include "columns.hpp"

// destination += add (source - pull destination), but where counted is 0
BP_CPU void blend(
    const real* source,    // [models, n]
    const double* numbers,  // [models, 2] add, pull
    const double* counted,  // [models]?
    real* destination,     // [models, n]
    i64 models, i64 n, i64 part, i64 parts) {
  const Range r = part_of(n, part, parts, BLOCK);
  for (i64 m = 0; m < models; m++) {
    const real add = real(numbers[m * 2]), pull = real(numbers[m * 2 + 1]);
    if (counted && counted[m] == 0) continue;
    for (i64 i = m * n + r.begin; i < m * n + r.end; i++)
      destination[i] += add * (source[i] - pull * destination[i]);
  }
}

// min(1, limit/norm), or NaN where the norm is not finite
BP_DEV double shrinking(double limit, double norm) {
  const double ratio = limit / norm;
  return (ratio < 1 ? ratio : 1) + (norm - norm);
}

// factor = counted min(1, limit/(counted sqrt(squares) + 1e-6)), but 0 where counted is
BP_CPU void clip_factor(
    const double* squares,  // [models]
    const double* limit,    // [models]
    const double* counted,  // [models]?
    double* factor,         // [models]
    i64 models, i64 part, i64 parts) {
  for (i64 m = part; m < models; m += parts) {
    const double counts = counted ? counted[m] : 1;
    factor[m] = counts == 0 ? 0 : counts * shrinking(limit[m], counts * __builtin_sqrt(squares[m]) + 1e-6);
  }
}

static const i64 COLUMNS = 64;  // whose sums are kept at a time

// w = w min(1, limit/|w|) of each column, but where counted is 0
BP_CPU void limit_norms(
    real* weight,          // [models, rows, cols]
    const double* limit,    // [models]
    const double* counted,  // [models]?
    i64 weight_step, i64 models, i64 rows, i64 cols, i64 part, i64 parts) {
  const Range r = part_of(cols, part, parts, COLUMNS);
  for (i64 m = 0; m < models; m++) {
    if (counted && counted[m] == 0) continue;
    for (i64 first = r.begin; first < r.end; first += COLUMNS) {
      const i64 n = least_of(COLUMNS, r.end - first);
      real* const w = weight + m * weight_step + first;
      double sums[COLUMNS] = {};
      real factors[COLUMNS];
      for (i64 row = 0; row < rows; row++)
        for (i64 k = 0; k < n; k++) sums[k] += double(w[row * cols + k]) * double(w[row * cols + k]);
      for (i64 k = 0; k < n; k++) factors[k] = real(shrinking(limit[m], __builtin_sqrt(sums[k])));
      for (i64 row = 0; row < rows; row++)
        for (i64 k = 0; k < n; k++) w[row * cols + k] *= factors[k];
    }
  }
}
