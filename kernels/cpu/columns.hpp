// Passes over rows in which each column has its own bias or sum. Narrow rows are taken several at a time, to fill the
// vectors; the biases or sums of the columns are then repeated side by side, once for each row.
#include "math.hpp"

// Before a loop whose iterations are independent: an element may be written where the same one was read.
#if defined(__clang__)
#define BP_LANES _Pragma("clang loop vectorize(assume_safety)")
#else
#define BP_LANES _Pragma("GCC ivdep")
#endif

// In a loop whose numbers lie anywhere: gathered and scattered by vector instructions, they take several times as long.
#define BP_SCALAR asm("")

static const i64 LANES = 16;
static const i64 ENOUGH = 128;  // numbers that fill the vectors; a row of fewer is taken together with others

BP_DEV i64 least_of(i64 a, i64 b) { return a < b ? a : b; }

// The sum of n numbers, the same whatever the width of the processor's vectors: LANES of them side by side.
template<i64 half> BP_DEV void fold(real (&lanes)[LANES]) {
  for (i64 k = 0; k < half; k++) lanes[k] += lanes[k + half];
}
template<class Term> BP_DEV real sum_of_terms(i64 n, Term term) {
  real sum = real(0.0);
  i64 i = 0;
  if (n >= LANES) {
    real lanes[LANES] = {};
    for (; i + LANES <= n; i += LANES) {
      BP_LANES
      for (i64 k = 0; k < LANES; k++) lanes[k] += term(i + k);
    }
    fold<8>(lanes), fold<4>(lanes), fold<2>(lanes), fold<1>(lanes);
    sum = lanes[0];
  }
  for (; i < n; i++) sum += term(i);
  return sum;
}
BP_DEV real sum_of(const real* v, i64 n) {
  return sum_of_terms(n, [=](i64 i) { return v[i]; });
}

// How many rows are taken at a time: a power of two, so that they are whole vectors if that is possible.
BP_DEV i64 rows_at_once(i64 cols, i64 rows) {
  i64 k = 1;
  while (2 * k * cols <= BLOCK && k < rows && (k * cols < ENOUGH || k * cols % 16)) k *= 2;
  return k;
}

// each(element, bias) for all elements of some rows; the bias may be a factor too
template<class Each> BP_DEV void with_bias(Range r, i64 cols, const real* bias, Each each) {
  const i64 at_once = rows_at_once(cols, r.end - r.begin), size = at_once * cols;
  real block[BLOCK];
  if (at_once > 1) {
    for (i64 c = 0; c < cols; c++) block[c] = bias[c];
    for (i64 half = cols; half < size; half *= 2) {
      BP_LANES
      for (i64 i = 0; i < half; i++) block[half + i] = block[i];
    }
    bias = block;
  }
  for (i64 row = r.begin; row < r.end; row += at_once) {
    const i64 first = row * cols, n = least_of(at_once, r.end - row) * cols;
    BP_LANES
    for (i64 i = 0; i < n; i++) each(first + i, bias[i]);
  }
}

// sum[c] = the sum of of(element) over the elements of column c in some rows
template<class Of> BP_DEV void sum_columns(Range r, i64 cols, real* sum, Of of) {
  const i64 at_once = rows_at_once(cols, r.end - r.begin), size = at_once * cols;
  real block[BLOCK], *const sums = at_once > 1 ? block : sum;
  for (i64 i = 0; i < size; i++) sums[i] = real(0.0);
  for (i64 row = r.begin; row < r.end; row += at_once) {
    const i64 first = row * cols, n = least_of(at_once, r.end - row) * cols;
    BP_LANES
    for (i64 i = 0; i < n; i++) sums[i] += of(first + i);
  }
  for (i64 half = size / 2; half >= cols; half /= 2) {
    real* const to = half == cols ? sum : sums;
    BP_LANES
    for (i64 i = 0; i < half; i++) to[i] = sums[i] + sums[half + i];
  }
}

// True in the part that arrives last, which sees what the others wrote before. The ticket is 0 before and after.
BP_DEV bool last_part(i64* ticket, i64 parts) {
  if (parts == 1) return true;
  if (__atomic_add_fetch(ticket, 1, __ATOMIC_ACQ_REL) < parts) return false;
  *ticket = 0;
  return true;
}

// sum = the sum of `parts` times n numbers, which lie `step` apart
BP_DEV void add_parts(real* sum, const real* from, i64 step, i64 n, i64 parts) {
  for (i64 c = 0; c < n; c++) sum[c] = from[c];
  for (i64 p = 1; p < parts; p++) {
    from += step;
    for (i64 c = 0; c < n; c++) sum[c] += from[c];
  }
}

// The sums of the columns of all models: each part writes its own to `partial`, and the part that arrives last adds up.
struct ColumnSums {
  real* grad_bias;  // null: not wanted
  real* partial;
  i64* ticket;
  i64 step, width, models, cols, part, parts;

  BP_DEV real* of(i64 model) const {
    return parts == 1 ? grad_bias + model * step : partial + (part * models + model) * width;
  }
  BP_DEV void finish() const {
    if (parts == 1 || !grad_bias || !last_part(ticket, parts)) return;
    for (i64 m = 0; m < models; m++) add_parts(grad_bias + m * step, partial + m * width, models * width, cols, parts);
  }
};
