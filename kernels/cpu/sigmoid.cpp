// Sigmoid with its cross-entropy, which takes z, not y.
#include "rows.hpp"

// v = z + b, p = 1/(1 + e^-v), e = sum of max(v, 0) - v t + log(1 + e^-|v|), grad_z = scale scales w (p - t)
BP_CPU void sigmoid_cross_entropy(
    real* z,              // [models, rows, cols] by rows, overwritten
    const real* b,        // [models, cols]?
    const real* target,   // [models, rows, cols] by rows
    const real* weights,  // [models, rows]? by rows
    const double* scales,  // [models]?
    real* grad_z,         // [models, rows, cols]? by rows, may be z
    double* total,         // [models, 3]
    real* e,              // [models, rows]
    i64* counts,           // [models, 2]
    i64 b_step, i64 models, i64 rows, i64 cols, real scale, i64 accuracy, i64 part,
    i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for_each_model(
      target, nullptr, weights, scales, grad_z, total, e, counts, models, rows, cols, scale, real(1.0), part, parts,
      [=](i64 m, i64 first, const Targets& targets, real factor, real* grad, real* es) {
        real* const v = z + first;
        if (b) with_bias(r, cols, b + m * b_step, [=](i64 i, real bias) { v[i] += bias; });
        const i64 right = count_correct(accuracy, r, v, targets, real(0.0));
        row_terms(r, targets, Smoothing(real(0.0), cols), es, [=](i64 i, real t) {
          const real a = v[i], u = exp(-fabs(a)), q = real(1.0) / (real(1.0) + u);
          if (grad) grad[i] = factor * (choose(a < real(0.0), u, real(1.0)) * q - t);
          return choose(a < real(0.0), real(0.0), a) - a * t + log1p(u);
        });
        return right;
      });
}
