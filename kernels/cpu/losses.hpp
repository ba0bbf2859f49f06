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
        const double* const own = numbers + m * count;
        const Smoothing smooth{float(own[0]), cols};
        const typename F::template of<float> loss(own + 1);
        const float* const ys = y + first;
        if (grad)
          row_terms(r, targets, smooth, es, [=](i64 i, float t) {
            const float a = ys[i];
            grad[i] = factor * loss.slope(a, t);
            return loss.value(a, t);
          });
        else
          row_terms(r, targets, smooth, es, [=](i64 i, float t) { return loss.value(ys[i], t); });
        return count_correct(accuracy, r, ys, targets, 0.5f);
      });
}
