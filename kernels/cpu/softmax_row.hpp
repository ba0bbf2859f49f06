// Rows of softmax: one at a time, in whole vectors, or LANES of them side by side. The bits are the same.
#include "rows.hpp"

// A row in memory of its own, which ends with places that hold nothing: -infinity, whose exponential is 0.
struct SoftmaxRow {
  real* v;         // [width]
  i64 cols, width; // width: cols, and what is missing to whole vectors

  BP_DEV void load(const real* z, const real* bias) const {
    for (i64 c = width - LANES; c < width; c++) v[c] = real(-__builtin_inff());
    if (bias) {
      BP_LANES
      for (i64 c = 0; c < cols; c++) v[c] = z[c] + bias[c];
    } else {
      BP_LANES
      for (i64 c = 0; c < cols; c++) v[c] = z[c];
    }
  }
  // As place_of_largest of v: the best of each lane, and then of these.
  BP_DEV i64 largest() const {
    real top[LANES];
    int from[LANES];
    for (i64 k = 0; k < LANES; k++) top[k] = v[k], from[k] = 0;
    for (i64 c = LANES; c < width; c += LANES)
      for (i64 k = 0; k < LANES; k++) {
        const real here = v[c + k];
        const bool first = is_larger(here, top[k]);
        top[k] = first ? here : top[k], from[k] = first ? int(c) : from[k];
      }
    i64 place = from[0];
    real best = top[0];
    for (i64 k = 1; k < LANES; k++) {
      const bool larger = is_larger(top[k], best), same = !larger && !is_larger(best, top[k]);
      if (larger || (same && from[k] + k < place)) place = from[k] + k, best = top[k];
    }
    return place;
  }
  // v = e^(v - top); returns their sum
  BP_DEV real exponentials(real top) const {
    BP_LANES
    for (i64 c = 0; c < width; c++) v[c] = exp(v[c] - top);
    return sum_of(v, width);
  }
  template<class Of> BP_DEV void store(real* to, Of of) const {
    BP_LANES
    for (i64 c = 0; c < cols; c++) to[c] = of(c);
  }
};

// LANES rows, transposed, so that one vector instruction works on all of them. Where there are fewer rows, the lanes
// behind the last hold what was there before.
struct TransposedRows {
  real* block;
  i64 rows, cols;

  __attribute__((noinline)) void load(const real* from, const real* bias) const {  // twice, as BP_APART
    for (i64 k = 0; k < rows; k++, from += cols)
      for (i64 c = 0; c < cols; c++) block[c * LANES + k] = bias ? from[c] + bias[c] : from[c];
  }
  BP_DEV void store(real* to) const {
    for (i64 k = 0; k < rows; k++, to += cols)
      for (i64 c = 0; c < cols; c++) to[c] = block[c * LANES + k];
  }
  // The largest number of each row and its place: the first of equals, and of NaNs, as numpy.argmax has it.
  BP_DEV void largest(real* top, int* place) const {
    for (i64 k = 0; k < LANES; k++) top[k] = block[k], place[k] = 0;
    for (i64 c = 1; c < cols; c++)
      for (i64 k = 0; k < LANES; k++) {
        const real v = block[c * LANES + k];
        const bool first = is_larger(v, top[k]);
        top[k] = first ? v : top[k], place[k] = first ? int(c) : place[k];
      }
  }
  // v = e^(v - top); sum = their sums, each in the order of sum_of
  BP_DEV void exponentials(const real* top, real* sum) const {
    real sums[LANES][LANES];
    for (i64 c = 0; c < cols; c++) {
      real *const v = block + c * LANES, *const of_lane = sums[c % LANES];
      BP_LANES
      for (i64 k = 0; k < LANES; k++) {
        v[k] = exp(v[k] - top[k]);
        of_lane[k] = c < LANES ? v[k] : of_lane[k] + v[k];
      }
    }
    for (i64 half = LANES / 2; half; half /= 2)
      for (i64 c = half; c < least_of(cols, 2 * half); c++)
        for (i64 k = 0; k < LANES; k++) sums[c - half][k] += sums[c][k];
    for (i64 k = 0; k < LANES; k++) sum[k] = sums[0][k];
  }
};
