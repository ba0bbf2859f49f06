// The losses of the table: value, gradient, weights and the count of right answers, in one pass over the rows.
#include "rows.hpp"

// grad_y = scale scales w share de/dy, total += w e
template<class F>
BP_CPU void loss_gradient(
    const float* y,         // [models, rows, cols] by rows
    const float* target,    // [models, rows, cols]? by rows
    const i64* labels,      // [models, rows]? by rows, in place of a target
    const float* weights,   // [models, rows]? by rows
    const double* numbers,  // [models, count] label smoothing, and those of F
    const double* scales,   // [models]?
    float* grad_y,          // [models, rows, cols]? by rows
    double* total,          // [models, 3]
    float* e,               // [models, rows]
    i64* counts,            // [models, 2]
    i64 models, i64 rows, i64 cols, i64 count, float scale, float share, i64 accuracy, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for_each_model(
      target, labels, weights, scales, grad_y, total, e, counts, models, rows, cols, scale, share, part, parts,
      [=](i64 m, i64 first, const Targets& targets, float factor, float* grad, float* es) {
        float own[1 + F::numbers];
        for (i64 k = 0; k <= F::numbers; k++) own[k] = float(numbers[m * count + k]);
        const Smoothing smooth(own[0], cols);
        const float* const ys = y + first;
        if (grad)
          row_terms(r, targets, smooth, es, [=](i64 i, float t) {
            const float a = ys[i];
            grad[i] = factor * F::slope(a, t, own + 1);
            return F::value(a, t, own + 1);
          });
        else
          row_terms(r, targets, smooth, es, [=](i64 i, float t) { return F::value(ys[i], t, own + 1); });
        return count_correct(accuracy, r, ys, targets, 0.5f);
      });
}
