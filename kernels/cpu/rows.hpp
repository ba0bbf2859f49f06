// What the losses share: targets, counts of right answers, e of each row, and the sums of all rows.
#include "columns.hpp"

enum { LOSS = 0, WEIGHT = 1, CORRECT = 2 };
enum { NOTHING = 0, ARGMAX = 1, THRESHOLD = 2 };  // what counts as a right answer

// A NaN is larger than all numbers, as numpy.argmax has it. Without branches, so that loops become vectors.
BP_DEV bool is_larger(real a, real b) { return (a > b) | ((a != a) & (b == b)); }

// The place of the largest number: the first of equals, and of NaNs.
BP_DEV i64 place_of_largest(const real* v, i64 n) {
  i64 place = 0;
  for (i64 c = 1; c < n && v[place] == v[place]; c++)
    if (v[c] > v[place] || v[c] != v[c]) place = c;
  return place;
}

// The targets of one model's rows: numbers, or else labels. Where a weight is -0, there is no row.
struct Targets {
  const real* numbers;
  const i64* labels;
  const real* weights;
  i64 cols;
  BP_DEV bool there(i64 row) const { return !weights || !__builtin_signbit(weights[row]); }
  BP_DEV bool bad(i64 row) const { return labels && (labels[row] < 0 || labels[row] >= cols); }
  BP_DEV i64 clamped(i64 row) const { return bad(row) ? 0 : labels[row]; }
  BP_DEV i64 largest(i64 row) const { return labels ? labels[row] : place_of_largest(numbers + row * cols, cols); }
};

// t <- rest t + even
struct Smoothing {
  real rest, even;
  BP_DEV Smoothing(real share, i64 cols) : rest(real(1.0) - share), even(share / real(cols)) {}
  BP_DEV real of(real t) const { return rest * t + even; }
};

// How many rows are right. half: 1/2 for y, 0 for z.
BP_APART i64 count_by_threshold(Range r, const real* output, const Targets& targets, real half) {
  const i64 cols = targets.cols;
  i64 right = 0;
  if (cols == 1 && !targets.weights)
    for (i64 i = r.begin; i < r.end; i++) right += (output[i] > half) == (targets.numbers[i] > real(0.5));
  for (i64 row = r.begin; row < r.end && (cols > 1 || targets.weights); row++) {
    int wrong = 0;
    for (i64 i = row * cols; i < (row + 1) * cols; i++) wrong += (output[i] > half) != (targets.numbers[i] > real(0.5));
    right += wrong == 0 && targets.there(row);
  }
  return right;
}
BP_DEV i64 count_correct(i64 accuracy, Range r, const real* output, const Targets& targets, real half) {
  if (accuracy == THRESHOLD) return count_by_threshold(r, output, targets, half);
  i64 right = 0;
  for (i64 row = r.begin; accuracy && row < r.end; row++)
    right += place_of_largest(output + row * targets.cols, targets.cols) == targets.largest(row) && targets.there(row);
  return right;
}

// The sum of n numbers in double, always in one order.
BP_APART double sum_in_double(const real* v, i64 n) {
  double lanes[8] = {}, rest = 0.0;
  i64 i = 0;
  for (; i + 8 <= n; i += 8)
    for (i64 k = 0; k < 8; k++) lanes[k] += double(v[i + k]);
  for (; i < n; i++) rest += double(v[i]);
  for (i64 half = 4; half; half /= 2)
    for (i64 k = 0; k < half; k++) lanes[k] += lanes[k + half];
  return lanes[0] + rest;
}

// The sums over all rows of all models: each part leaves the losses and counts of its rows, and the part that arrives
// last adds them up, always in one order.
struct LossSum {
  real* e;      // [models, rows]
  i64* counts;   // [models, 2]: the ticket, and how many were right
  double* total;
  i64 models, rows;

  BP_DEV void add(i64 model, i64 right) const {
    if (right) __atomic_fetch_add(counts + 2 * model + 1, right, __ATOMIC_RELAXED);
  }
  BP_DEV void finish(i64 parts) const {
    if (!last_part(counts, parts)) return;
    for (i64 m = 0; m < models; m++) {
      total[m * 3 + LOSS] += sum_in_double(e + m * rows, rows), total[m * 3 + CORRECT] += double(counts[2 * m + 1]);
      counts[2 * m + 1] = 0;
    }
  }
};

// e of some rows as the sum over their outputs of term(element, t), which may put something in each element's place.
template<class Term> BP_DEV void row_terms(Range r, const Targets& targets, Smoothing smooth, real* e, Term term) {
  const i64 cols = targets.cols, at_once = cols < BLOCK ? BLOCK / cols : 1;
  real scratch[BLOCK], one_hot[BLOCK];
  for (i64 row = r.begin; row < r.end; row += at_once) {
    const i64 rows = least_of(at_once, r.end - row), width = least_of(cols, BLOCK);
    real* const terms = cols == 1 ? e + row : scratch;
    for (i64 c = 0; c < cols; c += width) {
      const i64 first = row * cols + c, n = rows > 1 ? rows * cols : least_of(width, cols - c);
      const real* const t = targets.labels ? one_hot : targets.numbers + first;
      if (targets.labels) {
        for (i64 i = 0; i < n; i++) one_hot[i] = real(0.0);
        for (i64 k = 0; k < rows; k++) {
          BP_SCALAR;
          const i64 place = targets.labels[row + k] - c;
          if (place >= 0 && place < width) one_hot[k * cols + place] = real(1.0);
        }
      }
      BP_LANES
      for (i64 i = 0; i < n; i++) terms[i] = term(first + i, smooth.of(t[i]));
      if (cols == 1) continue;
      for (i64 k = 0; k < rows; k++) {
        const real sum = sum_of(terms + k * cols, least_of(width, cols - c));
        e[row + k] = c ? e[row + k] + sum : sum;
      }
    }
  }
}

// e of some rows times w, and their gradients, which have all other factors; a label out of range makes the
// loss of its row NaN and its gradient 0.
BP_APART void apply_weights(Range r, const Targets& targets, real share, const real* weights, real* grad, real* e) {
  if (share != real(1.0))
    for (i64 row = r.begin; row < r.end; row++) e[row] *= share;
  for (i64 row = r.begin; weights && row < r.end; row++) {
    e[row] *= weights[row];
    for (i64 c = 0; grad && c < targets.cols; c++) grad[row * targets.cols + c] *= weights[row];
  }
  for (i64 row = r.begin; targets.labels && row < r.end; row++) {
    if (!targets.bad(row)) continue;
    e[row] = real(__builtin_nan(""));
    for (i64 c = 0; grad && c < targets.cols; c++) grad[row * targets.cols + c] = real(0.0);
  }
}

// What all losses do with each model: each(m, first element, targets, factor, grad, e) fills e of the rows of this part,
// and their gradients where these are asked for, without w and share, and returns how many are right.
template<class Each>
BP_DEV void for_each_model(
    const real* target, const i64* labels, const real* weights, const double* scales, real* grad, double* total,
    real* e, i64* counts, i64 models, i64 rows, i64 cols, real scale, real share, i64 part, i64 parts, Each each) {
  const Range r = rows_of(rows, part, parts);
  const LossSum loss_sum = {e, counts, total, models, rows};
  for (i64 m = 0; m < models; m++) {
    const i64 first = m * rows * cols;
    const real* const weights_of = weights ? weights + m * rows : weights;
    const Targets targets = {target ? target + first : target, labels ? labels + m * rows : labels, weights_of, cols};
    const real factor = (scales ? scale * real(scales[m]) : scale) * share;
    real *const grad_of = grad ? grad + first : grad, *const es = e + m * rows;
    loss_sum.add(m, each(m, first, targets, factor, grad_of, es));
    apply_weights(r, targets, share, weights_of, grad_of, es);
  }
  loss_sum.finish(parts);
}
