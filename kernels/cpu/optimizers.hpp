// What an optimizer does to the flat buffers, by its rule U. hyper holds, in double, the step number and the rule's
// settings. Where gradient_factor is 0 a step changes nothing.
#include "columns.hpp"
#include "../updates.cuh"

// The functions of coefficients, which are worked out in double.
BP_DEV double root(double a) { return __builtin_sqrt(a); }
BP_DEV double power(double a, double b) { return __builtin_pow(a, b); }
BP_DEV double correction(double rest, double step) { return 1 - __builtin_pow(1 - rest, step); }
#include "../coefficients.cuh"

static const i64 PER_GROUP = 256 / sizeof(real);

// W <- (1 - eta lambda) W - change
template<class U>
BP_CPU void update(
    real* w,                       // [models, n]
    const real* g,                 // [models, n]
    real* moments,                 // [count, models, n]? `apart` from each other
    const double* hyper,            // [models, settings] step and the settings of the rule
    const double* gradient_factor,  // [models]?
    const real* groups,            // [3, blocks]? the factors of rate, decay and penalties
    i64 models, i64 n, i64 count, i64 apart, i64 settings, i64 blocks, i64 part, i64 parts) {
  const Range r = part_of(n, part, parts, BLOCK);
  for (i64 m = 0; m < models; m++) {
    if (gradient_factor && gradient_factor[m] == 0) continue;
    const real factor = gradient_factor ? real(gradient_factor[m]) : real(1.0);
    typename U::template of<real> rule;
    rule.template prepare<double>(hyper[m * settings], hyper + m * settings + 1);
    for (i64 first = r.begin, end; first < r.end; first = end) {
      const Group<real> group(groups, blocks, first);
      end = groups ? least_of(first / PER_GROUP * PER_GROUP + PER_GROUP, r.end) : r.end;
      if (group.rate == real(0.0)) continue;
      BP_LANES
      for (i64 i = m * n + first; i < m * n + end; i++)
        w[i] = group.moved<U>(rule, w[i], step_of<U>(rule, w[i], factor * g[i], group.penalty, moments, i, apart));
    }
  }
}
