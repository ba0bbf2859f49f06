// A row of softmax at a time, in whole vectors.
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
