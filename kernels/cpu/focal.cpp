// The focal loss of softmax.
#include "softmax_row.hpp"

// p = softmax(z + b), l = -log p, h = t (1 - p)^gamma, e = sum of h l, and with g = -h (1 + gamma l/(e^l - 1)):
// grad_z = scale scales w (g - p sum of g). 1 - p is 1 - e^-l, so that nothing is lost where p is near 0 or 1.
BP_CPU void softmax_focal(
    const real* z,         // [models, rows, cols] by rows
    const real* b,         // [models, cols]?
    const real* target,    // [models, rows, cols]? by rows
    const i64* labels,     // [models, rows]? by rows, in place of a target
    const real* weights,   // [models, rows]? by rows
    const double* numbers, // [models, count] label smoothing, which is 0, and gamma
    const double* scales,  // [models]?
    real* grad_z,          // [models, rows, cols]? by rows, may be z
    double* total,         // [models, 3]
    real* e,               // [models, rows]
    real* room,            // [threads, 3, width]
    i64* counts,           // [models, 2]
    i64 b_step, i64 models, i64 rows, i64 cols, i64 count, i64 threads, i64 width, real scale, i64 accuracy, i64 part,
    i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const SoftmaxRow of = {room + part * 3 * width, cols, width};
  real *const p = of.v, *const below = p + width, *const t = below + width;
  for_each_model(
      target, labels, weights, scales, grad_z, total, e, counts, models, rows, cols, scale, real(1), part, parts,
      [=](i64 m, i64 first, const Targets& targets, real factor, real* grad, real* es) {
        const real gamma = real(numbers[m * count + 1]);
        i64 right = 0;
        for (i64 row = r.begin; row < r.end; row++) {
          of.load(z + first + row * cols, b ? b + m * b_step : b);
          const i64 place = of.largest();
          const real top = p[place];
          if (accuracy && targets.there(row)) right += place == targets.largest(row);
          for (i64 c = 0; c < width; c++) below[c] = p[c] - top, t[c] = real(0);
          for (i64 c = 0; target && c < cols; c++) t[c] = targets.numbers[row * cols + c];
          if (!target) t[targets.clamped(row)] = real(1);
          const real sum = of.exponentials(top), log_sum = log(sum);
          BP_LANES
          for (i64 c = 0; c < width; c++) {
            const real l = choose(t[c] == real(0), real(0), log_sum - below[c]), rest = -expm1(-l);
            const real h = t[c] * exp(gamma * log(choose(rest < tiny<real>(), tiny<real>(), rest)));
            const real far = choose(l > real(1000), real(1000), l);
            const real ratio = choose(l == real(0), real(1), far / expm1(far));
            below[c] = h * l, t[c] = h * (real(1) + gamma * ratio);
          }
          es[row] = sum_of(below, width);
          if (!grad) continue;
          const real share = sum_of(t, width) / sum;
          of.store(grad + row * cols, [=](i64 c) { return factor * (p[c] * share - t[c]); });
        }
        return right;
      });
}
