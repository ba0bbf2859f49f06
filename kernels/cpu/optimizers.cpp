// What an optimizer does to the flat buffers. hyper holds, in double, the step number, the learning rate, then the
// optimizer's own settings. A step first increments the step number, in an operation of its own, then updates the
// parameters. Where gate is 0 it changes nothing, not even the step number.
#include "port.hpp"

BP_DEV bool is_open(const double* gate, i64 model) { return !gate || gate[model] != 0; }

// update(model, at, count) for each model whose gate is open: `count` parameters from `at` on are the part's.
template<class Update>
BP_DEV void for_each_open_model(const double* gate, i64 models, i64 n, i64 part, i64 parts, Update update) {
  const Range r = part_of(n, part, parts, BLOCK);
  for (i64 model = 0; model < models; model++)
    if (is_open(gate, model)) update(model, model * n + r.begin, r.end - r.begin);
}

BP_CPU void count_step(
    double* hyper,       // [models, settings]
    const double* gate,  // [models]?
    i64 models, i64 settings, i64 part, i64 parts) {
  for (i64 model = part; model < models; model += parts)
    if (is_open(gate, model)) hyper[model * settings] += 1;
}

// W <- W - eta g
static void descend(float* __restrict w, const float* __restrict g, i64 n, float rate) {
  for (i64 i = 0; i < n; i++) w[i] -= rate * g[i];
}

// v <- mu v + g, W <- W - eta v
static void descend(
    float* __restrict w, const float* __restrict g, float* __restrict velocity, i64 n, float rate, float mu) {
  for (i64 i = 0; i < n; i++) {
    velocity[i] = mu * velocity[i] + g[i];
    w[i] -= rate * velocity[i];
  }
}

// v <- mu v + g, W <- W - eta (g + mu v)
static void descend_nesterov(
    float* __restrict w, const float* __restrict g, float* __restrict velocity, i64 n, float rate, float mu) {
  for (i64 i = 0; i < n; i++) {
    velocity[i] = mu * velocity[i] + g[i];
    w[i] -= rate * (mu * velocity[i] + g[i]);
  }
}

BP_CPU void sgd(
    float* w,             // [models, n]
    const float* g,       // [models, n]
    float* velocity,      // [models, n]? null: no momentum
    const double* hyper,  // [models, 3] step, eta, mu
    const double* gate,   // [models]?
    i64 models, i64 n, i64 nesterov, i64 part, i64 parts) {
  for_each_open_model(gate, models, n, part, parts, [=](i64 model, i64 at, i64 count) {
    const float rate = float(hyper[model * 3 + 1]), mu = float(hyper[model * 3 + 2]);
    if (!velocity)
      descend(w + at, g + at, count, rate);
    else if (nesterov)
      descend_nesterov(w + at, g + at, velocity + at, count, rate, mu);
    else
      descend(w + at, g + at, velocity + at, count, rate, mu);
  });
}

static const float LARGEST_SUM = 3.402823466e+38f, LARGEST_GRADIENT = 9.2233715e+18f;  // its square is a quarter

// A gradient, clipped at +-bound: squares of larger ones would add up to infinity, and stop a parameter for ever. An
// infinite one becomes NaN, which the loss shows.
BP_DEV float clip(float g, float bound) {
  const float below = g > bound ? bound : g;
  return (below < -bound ? -bound : below) + (g - g);
}

// v <- rho v + rest g^2, W <- W - eta g / (sqrt(v) + epsilon)
static void descend_scaled(
    float* __restrict w, const float* __restrict g, float* __restrict v, i64 n, float rate, float rho, float rest,
    float epsilon) {
  for (i64 i = 0; i < n; i++) {
    const float grad = clip(g[i], LARGEST_GRADIENT);
    const float sum = rho * v[i] + rest * (grad * grad);
    v[i] = sum > LARGEST_SUM ? LARGEST_SUM : sum;
    w[i] -= rate * (grad / (__builtin_sqrtf(v[i]) + epsilon));
  }
}

// rest = 1 - rho
BP_CPU void rmsprop(
    float* w,             // [models, n]
    const float* g,       // [models, n]
    float* v,             // [models, n]
    const double* hyper,  // [models, 4] step, eta, rho, epsilon
    const double* gate,   // [models]?
    i64 models, i64 n, i64 part, i64 parts) {
  for_each_open_model(gate, models, n, part, parts, [=](i64 model, i64 at, i64 count) {
    const double* h = hyper + model * 4;
    descend_scaled(w + at, g + at, v + at, count, float(h[1]), float(h[2]), float(1 - h[2]), float(h[3]));
  });
}

// rho = rest = 1
BP_CPU void adagrad(
    float* w,             // [models, n]
    const float* g,       // [models, n]
    float* v,             // [models, n]
    const double* hyper,  // [models, 3] step, eta, epsilon
    const double* gate,   // [models]?
    i64 models, i64 n, i64 part, i64 parts) {
  for_each_open_model(gate, models, n, part, parts, [=](i64 model, i64 at, i64 count) {
    const double* h = hyper + model * 3;
    descend_scaled(w + at, g + at, v + at, count, float(h[1]), 1, 1, float(h[2]));
  });
}

// W <- W - eta lambda W - eta m^ / (sqrt(v^) + epsilon). As in numpy_ops, the moments are kept without their factors
// 1 - beta, which go with the bias corrections into two coefficients.
struct Adam {
  float b1, b2, epsilon, rate, decay, bound;
  explicit Adam(const double* h) {
    const double k = __builtin_sqrt((1 - h[3]) / (1 - __builtin_pow(h[3], h[0])));
    b1 = float(h[2]), b2 = float(h[3]), epsilon = float(h[4] / k);
    rate = float(h[1] * (1 - h[2]) / (1 - __builtin_pow(h[2], h[0])) / k), decay = float(1 - h[1] * h[5]);
    bound = LARGEST_GRADIENT * float(__builtin_sqrt(1 - h[3]));
  }
};

static void descend(
    float* __restrict w, const float* __restrict g, float* __restrict m, float* __restrict v, i64 n, const Adam rule) {
  for (i64 i = 0; i < n; i++) {
    const float grad = clip(g[i], rule.bound);
    m[i] = rule.b1 * m[i] + grad;
    v[i] = rule.b2 * v[i] + grad * grad;
    w[i] = rule.decay * w[i] - rule.rate * (m[i] / (__builtin_sqrtf(v[i]) + rule.epsilon));
  }
}

BP_CPU void adam(
    float* w,             // [models, n]
    const float* g,       // [models, n]
    float* m,             // [models, n]
    float* v,             // [models, n]
    const double* hyper,  // [models, 6] step, eta, beta1, beta2, epsilon, lambda
    const double* gate,   // [models]?
    i64 models, i64 n, i64 part, i64 parts) {
  for_each_open_model(gate, models, n, part, parts, [=](i64 model, i64 at, i64 count) {
    descend(w + at, g + at, m + at, v + at, count, Adam(hyper + model * 6));
  });
}

static const i64 SUMS = 16;  // accumulators of a block

// The sums of the squares of `block_size` numbers each: the same for any number of parts.
BP_CPU void sum_block_squares(
    const float* a,  // [models, n]
    double* sums,    // [models, blocks]
    i64 models, i64 n, i64 blocks, i64 block_size, i64 part, i64 parts) {
  const Range r = part_of(blocks, part, parts, 1);
  for (i64 model = 0; model < models; model++) {
    for (i64 l = r.begin; l < r.end; l++) {
      const float* const of = a + model * n + l * block_size;
      const i64 count = (l + 1) * block_size < n ? block_size : n - l * block_size;
      double several[SUMS] = {}, rest = 0;
      i64 i = 0;
      for (; i + SUMS <= count; i += SUMS)
        for (i64 k = 0; k < SUMS; k++) several[k] += double(of[i + k]) * double(of[i + k]);
      for (; i < count; i++) rest += double(of[i]) * double(of[i]);
      for (i64 k = 0; k < SUMS; k++) rest += several[k];
      sums[model * blocks + l] = rest;
    }
  }
}

// out = sums added up, in their order
BP_CPU void add_block_sums(
    const double* sums,  // [models, blocks]
    double* out,         // [models]
    i64 models, i64 blocks, i64 part, i64 parts) {
  for (i64 model = part; model < models; model += parts) {
    double sum = 0;
    for (i64 l = 0; l < blocks; l++) sum += sums[model * blocks + l];
    out[model] = sum;
  }
}
