// The cross-entropy of softmax with many outputs.
#include "softmax_row.hpp"

// As `softmax_cross_entropy`, which works out as many rows side by side as vectors have lanes, but one row at a time.
BP_CPU void wide_softmax_cross_entropy(
    const real* z,         // [models, rows, cols] by rows
    const real* b,         // [models, cols]?
    const real* target,    // [models, rows, cols]? by rows
    const i64* labels,     // [models, rows]? by rows, in place of a target
    const real* weights,   // [models, rows]? by rows
    const double* numbers, // [models, count] label smoothing first
    const double* scales,  // [models]?
    real* grad_z,          // [models, rows, cols]? by rows, may be z
    double* total,         // [models, 3]
    real* e,               // [models, rows]
    real* room,            // [threads, width]
    i64* counts,           // [models, 2]
    i64 b_step, i64 models, i64 rows, i64 cols, i64 count, i64 threads, i64 width, real scale, i64 accuracy, i64 part,
    i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const SoftmaxRow of = {room + part * width, cols, width};
  real* const v = of.v;
  for_each_model(
      target, labels, weights, scales, grad_z, total, e, counts, models, rows, cols, scale, real(1), part, parts,
      [=](i64 m, i64 first, const Targets& targets, real factor, real* grad, real* es) {
        const Smoothing smooth{real(numbers[m * count]), cols};
        const real even = smooth.even;
        i64 right = 0;
        for (i64 row = r.begin; row < r.end; row++) {
          of.load(z + first + row * cols, b ? b + m * b_step : b);
          const i64 place = of.largest(), label = target ? 0 : targets.clamped(row);
          const real* const t = target ? targets.numbers + row * cols : nullptr;
          const real top = v[place];
          if (accuracy && targets.there(row)) right += place == targets.largest(row);
          real dot = real(0);
          if (target)
            dot = sum_of_terms(cols, [=](i64 c) { return smooth.of(t[c]) * (v[c] - top); });
          else
            dot = smooth.rest * (v[label] - top);
          if (!target && even != real(0)) dot += even * sum_of_terms(cols, [=](i64 c) { return v[c] - top; });
          const real sum = of.exponentials(top), share = factor / sum;
          es[row] = log(sum) - dot;
          if (!grad) continue;
          real* const to = grad + row * cols;
          if (target)
            of.store(to, [=](i64 c) { return v[c] * share - factor * smooth.of(t[c]); });
          else
            of.store(to, [=](i64 c) { return v[c] * share - factor * even; });
          if (!target) to[label] -= factor * smooth.rest;
        }
        return right;
      });
}
