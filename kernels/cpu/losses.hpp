// The losses of the table: value, gradient, weights and the count of right answers, in one pass over the rows.
#include "rows.hpp"

// grad_y = scale scales w share de/dy, total += w e
template<class F>
BP_CPU void loss_gradient(
    const real* y,         // [models, rows, cols] by rows
    const real* target,    // [models, rows, cols]? by rows
    const i64* labels,      // [models, rows]? by rows, in place of a target
    const real* weights,   // [models, rows]? by rows
    const double* numbers,  // [models, count] label smoothing, and those of F
    const double* scales,   // [models]?
    real* grad_y,          // [models, rows, cols]? by rows
    double* total,          // [models, 3]
    real* e,               // [models, rows]
    i64* counts,            // [models, 2]
    i64 models, i64 rows, i64 cols, i64 count, real scale, real share, i64 accuracy, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for_each_model(
      target, labels, weights, scales, grad_y, total, e, counts, models, rows, cols, scale, share, part, parts,
      [=](i64 m, i64 first, const Targets& targets, real factor, real* grad, real* es) {
        const double* const own = numbers + m * count;
        const Smoothing smooth{real(own[0]), cols};
        const typename F::template of<real> loss(own + 1);
        const real* const ys = y + first;
        if (grad)
          row_terms(r, targets, smooth, es, [=](i64 i, real t) {
            const real a = ys[i];
            grad[i] = factor * loss.slope(a, t);
            return loss.value(a, t);
          });
        else
          row_terms(r, targets, smooth, es, [=](i64 i, real t) { return loss.value(ys[i], t); });
        return count_correct(accuracy, r, ys, targets, real(0.5));
      });
}
