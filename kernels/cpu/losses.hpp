// The losses of the table: value, gradient, weights and the count of right answers, in one pass over the rows.
#include "rows.hpp"

// grad_y = scale scales w share de/dy, total += w e
template<class F>
BP_CPU void loss_gradient(
    const float* y,         // [models, rows, cols] by rows
    const float* target,    // [models, rows, cols]? by rows
    const i64* labels,      // [models, rows]? by rows, in place of a target
    const float* weights,   // [models, rows]? by rows
    const double* scales,   // [models]?
    float* grad_y,          // [models, rows, cols]? by rows
    double* total,          // [models, 3]
    float* e,               // [models, rows]
    i64* counts,            // [models, 2]
    i64 models, i64 rows, i64 cols, float scale, float share, float smoothing, float setting,
    i64 accuracy, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const float rest = 1.0f - smoothing, even = smoothing / float(cols);
  const LossSum loss_sum = {e, counts, total, models, rows};
  for (i64 m = 0; m < models; m++) {
    const float factor = (scales ? scale * float(scales[m]) : scale) * share;
    const float *const ys = y + m * rows * cols;
    float *const grad = grad_y ? grad_y + m * rows * cols : grad_y, *const es = e + m * rows;
    const Targets targets = {target ? target + m * rows * cols : target, labels ? labels + m * rows : labels, cols};
    loss_sum.add(m, count_correct(accuracy, r, ys, targets, 0.5f));
    if (grad)
      row_terms(r, targets, rest, even, es, [=](i64 i, float t) {
        const float a = ys[i];
        grad[i] = factor * F::slope(a, t, setting);
        return F::value(a, t, setting);
      });
    else
      row_terms(r, targets, rest, even, es, [=](i64 i, float t) { return F::value(ys[i], t, setting); });
    apply_weights(r, targets, share, weights ? weights + m * rows : weights, grad, es);
  }
  loss_sum.finish(parts);
}
