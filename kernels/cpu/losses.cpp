// Softmax with its cross-entropy, which takes z, not y; and the weights of rows.
#include "softmax_row.hpp"

// factor = 0 where the sum of w is, else counted, which is 1 unless given; scales = 1/sum, or 1 where that is 0; total +=
// sum
BP_CPU void normalize_weights(
    const real* weights,   // [models, rows]
    const double* counted,  // [models]?
    double* factor,         // [models]
    double* scales,         // [models]?
    double* total,          // [models, 3]
    i64 models, i64 rows, i64 part, i64 parts) {
  for (i64 m = part; m < models; m += parts) {
    double lanes[8] = {}, sum = 0.0;
    for (i64 r = 0; r < rows; r++) lanes[r % 8] += double(weights[m * rows + r]);
    for (i64 k = 0; k < 8; k++) sum += lanes[k];
    factor[m] = sum == 0 ? 0 : counted ? counted[m] : 1;
    total[m * 3 + WEIGHT] += sum;
    if (scales) scales[m] = 1 / (sum == 0 ? 1 : sum);
  }
}

// v = z + b, p = softmax(v), e = log(sum of e^v) - sum of t v, grad_z = scale scales w (p - t)
BP_CPU void softmax_cross_entropy(
    const real* z,        // [models, rows, cols] by rows
    const real* b,        // [models, cols]?
    const real* target,   // [models, rows, cols]? by rows
    const i64* labels,     // [models, rows]? by rows, in place of a target
    const real* weights,  // [models, rows]? by rows
    const double* numbers, // [models, count] label smoothing first
    const double* scales,  // [models]?
    real* grad_z,         // [models, rows, cols]? by rows, may be z
    double* total,         // [models, 3]
    real* e,              // [models, rows]
    real* room,           // [threads, 2, 16, cols] LANES rows of z and of targets
    i64* counts,           // [models, 2]
    i64 b_step, i64 models, i64 rows, i64 cols, i64 count, i64 threads, real scale, i64 accuracy, i64 part,
    i64 parts) {
  static_assert(LANES == 16, "the shape of room says so too");
  const Range r = rows_of(rows, part, parts);
  real *const v = room + part * 2 * LANES * cols, *const t = v + LANES * cols;
  for (i64 i = 0; i < 2 * LANES * cols; i++) v[i] = real(0.0);
  for_each_model(
      target, labels, weights, scales, grad_z, total, e, counts, models, rows, cols, scale, real(1.0), part, parts,
      [=](i64 m, i64 first, const Targets& targets, real factor, real* grad, real* es) {
        const real* const bias = b ? b + m * b_step : b;
        const Smoothing smooth{real(numbers[m * count]), cols};
        const real rest = smooth.rest, even = smooth.even;
        i64 right = 0;
        for (i64 row = r.begin; row < r.end; row += LANES) {
          const i64 some = least_of(LANES, r.end - row);
          real top[LANES], sum[LANES] = {}, dot[LANES] = {}, share[LANES];
          int place[LANES], other[LANES];
          TransposedRows vs = {v, some, cols}, ts = {t, some, cols};
          vs.load(z + first + row * cols, bias);
          vs.largest(top, place);
          if (target) {
            ts.load(targets.numbers + row * cols, nullptr);
            if (accuracy) ts.largest(share, other);
          }
          for (i64 k = 0; k < some; k++) {
            BP_SCALAR;
            if (!target) dot[k] = rest * (v[targets.clamped(row + k) * LANES + k] - top[k]);
            if (accuracy && targets.there(row + k)) right += place[k] == (target ? other[k] : targets.labels[row + k]);
          }
          for (i64 i = 0; i < cols * LANES; i += LANES) {
            BP_LANES
            for (i64 k = 0; k < LANES; k++) {
              const real below = v[i + k] - top[k];
              if (target) dot[k] += smooth.of(t[i + k]) * below;
              if (!target && even != real(0.0)) dot[k] += even * below;
              v[i + k] = exp(below), sum[k] += v[i + k];
            }
          }
          for (i64 k = 0; k < LANES; k++) share[k] = factor / sum[k], dot[k] = log(sum[k]) - dot[k];
          for (i64 k = 0; k < some; k++) es[row + k] = dot[k];
          if (!grad) continue;
          for (i64 i = 0; i < cols * LANES; i += LANES) {
            BP_LANES
            for (i64 k = 0; k < LANES; k++)
              v[i + k] = v[i + k] * share[k] - factor * (target ? smooth.of(t[i + k]) : even);
          }
          for (i64 k = 0; k < some && !target; k++) v[targets.clamped(row + k) * LANES + k] -= factor * rest;
          vs.store(grad + row * cols);
        }
        return right;
      });
}
