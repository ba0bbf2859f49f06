// Periodic embeddings of numbers (network/periodic.py). Rows are worked on side by side, a few units at a time.
#include "columns.hpp"

static const i64 SIDE = 256;    // rows at a time: what is kept of them stays in the cache
static const i64 TOGETHER = 4;  // units at a time, for which the cosines are worked out
static const real TURNS = real(0.15915494309189535), TURN = real(6.283185307179586);  // in a radian; radians of one

// The parameters of a number: rows (w, A) of the weight, one a frequency; b of each of these in the bias, then a of each
// unit. A and a are 0 beyond the last unit.
struct OfNumber {
  const real *weight, *bias;
  i64 frequencies, units;
  BP_DEV static OfNumber at(
      const real* weight, const real* bias, i64 number, i64 frequencies, i64 width, i64 terms) {
    return {weight + number * frequencies * width, bias + number * terms, frequencies, width - 1};
  }
  BP_DEV real w(i64 h) const { return weight[h * (1 + units)]; }
  BP_DEV real b(i64 h) const { return bias[h]; }
  BP_DEV real A(i64 h, i64 k) const { return k < units ? weight[h * (1 + units) + 1 + k] : real(0.0); }
  BP_DEV real a(i64 k) const { return k < units ? bias[frequencies + k] : real(0.0); }
};

// column = n numbers that lie `step` apart, and zeros up to a multiple of LANES
BP_DEV void take_column(real* column, const real* from, i64 step, i64 n) {
  for (i64 r = 0; r < n; r++) column[r] = from[r * step];
  for (i64 r = n; r % LANES; r++) column[r] = real(0.0);
}

// The gradients of the next units in n rows, of which so many are left; zeros beyond.
BP_DEV void take_gradients(real (&gs)[TOGETHER][SIDE], const real* from, i64 step, i64 n, i64 left) {
  for (i64 j = 0; j < TOGETHER; j++) {
    if (j < left) take_column(gs[j], from + j, step, n);
    for (i64 r = 0; r < SIDE && j >= left; r++) gs[j][r] = real(0.0);
  }
}

// What stands behind the numbers in n rows.
BP_DEV void pass_on(real* to, i64 to_step, const real* from, i64 from_step, i64 n, i64 behind) {
  for (i64 r = 0; r < n; r++)
    for (i64 c = 0; c < behind; c++) to[r * to_step + c] = from[r * from_step + c];
}

// y = (e, x) of each number, and the inputs behind them: e_k = a_k + sum over h of A_hk cos(2 pi w_h x + b_h)
BP_CPU void periodic(
    const real* x,       // [models, rows, inputs] by rows
    const real* weight,  // [models, numbers, frequencies, width]
    const real* bias,    // [models, numbers, terms]
    real* y,             // [models, rows, outputs] by rows
    i64 x_step, i64 weight_step, i64 bias_step, i64 models, i64 rows, i64 inputs, i64 numbers, i64 frequencies,
    i64 width, i64 terms, i64 outputs, i64 part, i64 parts) {
  const Range all = rows_of(rows, part, parts);
  const i64 units = width - 1;
  real xs[SIDE], es[TOGETHER][SIDE];
  for (i64 m = 0; m < models; m++)
    for (i64 first = all.begin; first < all.end; first += SIDE) {
      const i64 n = least_of(SIDE, all.end - first);
      const real* const from = x + m * x_step + first * inputs;
      real* const to = y + (m * rows + first) * outputs;
      for (i64 i = 0; i < numbers; i++) {
        const OfNumber of = OfNumber::at(weight + m * weight_step, bias + m * bias_step, i, frequencies, width, terms);
        take_column(xs, from + i, inputs, n);
        for (i64 k = 0; k < units; k += TOGETHER) {
          for (i64 j = 0; j < TOGETHER; j++)
            for (i64 r = 0; r < n; r++) es[j][r] = of.a(k + j);
          for (i64 h = 0; h < frequencies; h++) {
            const real w = of.w(h), b = of.b(h) * TURNS;
            const real a0 = of.A(h, k), a1 = of.A(h, k + 1), a2 = of.A(h, k + 2), a3 = of.A(h, k + 3);
            BP_LANES
            for (i64 r = 0; r < n; r++) {
              const real c = cos_sin_turns(fma(w, xs[r], b)).cosine;
              es[0][r] = fma(a0, c, es[0][r]), es[1][r] = fma(a1, c, es[1][r]);
              es[2][r] = fma(a2, c, es[2][r]), es[3][r] = fma(a3, c, es[3][r]);
            }
          }
          for (i64 j = 0; j < TOGETHER && k + j < units; j++)
            for (i64 r = 0; r < n; r++) to[r * outputs + i * width + k + j] = es[j][r];
        }
        for (i64 r = 0; r < n; r++) to[r * outputs + i * width + units] = xs[r];
      }
      pass_on(to + numbers * width, outputs, from + numbers, inputs, n, inputs - numbers);
    }
}

// The sums of one number and frequency over some rows, side by side; delta = -sin u (A g).
struct FrequencySums {
  real w[LANES] = {}, b[LANES] = {}, A[TOGETHER][LANES] = {};
};

// grad_weight and grad_bias: with g = the gradient of e, grad_A = the sum of cos(u) g, grad_a of g, grad_b of delta, and
// grad_w = 2 pi times that of x delta
BP_CPU void periodic_gradient(
    const real* x,       // [models, rows, inputs] by rows
    const real* weight,  // [models, numbers, frequencies, width]
    const real* bias,    // [models, numbers, terms]
    const real* grad_y,  // [models, rows, outputs] by rows
    real* grad_weight,   // [models, numbers, frequencies, width]
    real* grad_bias,     // [models, numbers, terms]
    real* partial,       // [threads, models, size]
    i64* ticket,          // [1]
    i64 x_step, i64 weight_step, i64 bias_step, i64 grad_weight_step, i64 grad_bias_step, i64 models, i64 rows,
    i64 inputs, i64 numbers, i64 frequencies, i64 width, i64 terms, i64 outputs, i64 threads, i64 size, i64 part,
    i64 parts) {
  const Range all = rows_of(rows, part, parts);
  const i64 units = width - 1, weights = numbers * frequencies * width, biases = numbers * terms;
  real xs[SIDE], gs[TOGETHER][SIDE];
  for (i64 m = 0; m < models; m++) {
    real* const mine = partial + (part * models + m) * size;
    real *const sum_weight = parts == 1 ? grad_weight + m * grad_weight_step : mine;
    real *const sum_bias = parts == 1 ? grad_bias + m * grad_bias_step : mine + weights;
    for (i64 k = 0; k < weights; k++) sum_weight[k] = real(0.0);
    for (i64 k = 0; k < biases; k++) sum_bias[k] = real(0.0);
    for (i64 first = all.begin; first < all.end; first += SIDE) {
      const i64 n = least_of(SIDE, all.end - first);
      for (i64 i = 0; i < numbers; i++) {
        const OfNumber of = OfNumber::at(weight + m * weight_step, bias + m * bias_step, i, frequencies, width, terms);
        real *const to_weight = sum_weight + i * frequencies * width, *const to_bias = sum_bias + i * terms;
        take_column(xs, x + m * x_step + first * inputs + i, inputs, n);
        for (i64 k = 0; k < units; k += TOGETHER) {
          const i64 live = least_of(TOGETHER, units - k);
          take_gradients(gs, grad_y + (m * rows + first) * outputs + i * width + k, outputs, n, live);
          for (i64 j = 0; j < live; j++) to_bias[frequencies + k + j] += sum_of(gs[j], n);
          for (i64 h = 0; h < frequencies; h++) {
            const real w = of.w(h), b = of.b(h) * TURNS;
            const real a0 = of.A(h, k), a1 = of.A(h, k + 1), a2 = of.A(h, k + 2), a3 = of.A(h, k + 3);
            FrequencySums sums;
            for (i64 r = 0; r < n; r += LANES)
              for (i64 l = 0; l < LANES; l++) {
                const CosSin<real> u = cos_sin_turns(fma(w, xs[r + l], b));
                const real g0 = gs[0][r + l], g1 = gs[1][r + l], g2 = gs[2][r + l], g3 = gs[3][r + l];
                const real delta = -u.sine * fma(a0, g0, fma(a1, g1, fma(a2, g2, a3 * g3)));
                sums.b[l] += delta, sums.w[l] = fma(xs[r + l], delta, sums.w[l]);
                sums.A[0][l] = fma(u.cosine, g0, sums.A[0][l]), sums.A[1][l] = fma(u.cosine, g1, sums.A[1][l]);
                sums.A[2][l] = fma(u.cosine, g2, sums.A[2][l]), sums.A[3][l] = fma(u.cosine, g3, sums.A[3][l]);
              }
            to_weight[h * width] += TURN * sum_of(sums.w, LANES), to_bias[h] += sum_of(sums.b, LANES);
            for (i64 j = 0; j < live; j++) to_weight[h * width + 1 + k + j] += sum_of(sums.A[j], LANES);
          }
        }
      }
    }
  }
  if (parts == 1 || !last_part(ticket, parts)) return;
  for (i64 m = 0; m < models; m++) {
    const real* const from = partial + m * size;
    add_parts(grad_weight + m * grad_weight_step, from, models * size, weights, parts);
    add_parts(grad_bias + m * grad_bias_step, from + weights, models * size, biases, parts);
  }
}

// grad_x = the gradient of the x in y + 2 pi times the sum over h of w_h delta_h, and of the inputs behind the numbers
BP_CPU void periodic_gradient_x(
    const real* x,       // [models, rows, inputs] by rows
    const real* weight,  // [models, numbers, frequencies, width]
    const real* bias,    // [models, numbers, terms]
    const real* grad_y,  // [models, rows, outputs] by rows
    real* grad_x,        // [models, rows, inputs] by rows
    i64 x_step, i64 weight_step, i64 bias_step, i64 models, i64 rows, i64 inputs, i64 numbers, i64 frequencies,
    i64 width, i64 terms, i64 outputs, i64 part, i64 parts) {
  const Range all = rows_of(rows, part, parts);
  const i64 units = width - 1;
  real xs[SIDE], gs[TOGETHER][SIDE], sums[SIDE];
  for (i64 m = 0; m < models; m++)
    for (i64 first = all.begin; first < all.end; first += SIDE) {
      const i64 n = least_of(SIDE, all.end - first);
      const real* const from = grad_y + (m * rows + first) * outputs;
      real* const to = grad_x + (m * rows + first) * inputs;
      for (i64 i = 0; i < numbers; i++) {
        const OfNumber of = OfNumber::at(weight + m * weight_step, bias + m * bias_step, i, frequencies, width, terms);
        take_column(xs, x + m * x_step + first * inputs + i, inputs, n);
        for (i64 r = 0; r < n; r++) sums[r] = real(0.0);
        for (i64 k = 0; k < units; k += TOGETHER) {
          take_gradients(gs, from + i * width + k, outputs, n, units - k);
          for (i64 h = 0; h < frequencies; h++) {
            const real w = of.w(h), b = of.b(h) * TURNS;
            const real a0 = of.A(h, k), a1 = of.A(h, k + 1), a2 = of.A(h, k + 2), a3 = of.A(h, k + 3);
            BP_LANES
            for (i64 r = 0; r < n; r++) {
              const real sine = cos_sin_turns(fma(w, xs[r], b)).sine;
              const real g = fma(a0, gs[0][r], fma(a1, gs[1][r], fma(a2, gs[2][r], a3 * gs[3][r])));
              sums[r] = fma(-w, sine * g, sums[r]);
            }
          }
        }
        for (i64 r = 0; r < n; r++) to[r * inputs + i] = fma(TURN, sums[r], from[r * outputs + i * width + units]);
      }
      pass_on(to + numbers, inputs, from + numbers * width, outputs, n, inputs - numbers);
    }
}
