// The update of one parameter. hyper holds, in float64, the step number, the learning rate, then its settings.
#include "port.cuh"

// A gradient, clipped at +-bound: squares of larger ones would add up to infinity, and stop a parameter for ever. An
// infinite one becomes NaN, which the loss shows.
template<class A> BP_DEV A clip(A g, A bound) { return (g > bound ? bound : g < -bound ? -bound : g) + (g - g); }
template<class A> BP_DEV A largest_gradient() { return A(0.5) * sqrt(most<A>()); }

// v <- mu v + g, W <- W - eta v, or W - eta (g + mu v) with Nesterov's momentum
template<class A> struct Sgd {
  A rate, mu;
  BP_DEV void prepare(const double* hyper) { rate = A(hyper[1]), mu = A(hyper[2]); }
  BP_DEV A direction(A g, A& v, int nesterov) const {
    v = mu * v + g;
    return nesterov ? mu * v + g : v;
  }
};

// W <- W - eta lambda W - eta m^ / (sqrt(v^) + epsilon). The moments are kept without their factors 1 - beta, which go
// with the bias corrections into two coefficients: with k^2 = (1 - beta2) / (1 - beta2^t),
// eta m^ / (sqrt(v^) + epsilon) = eta (1 - beta1) / ((1 - beta1^t) k) m / (sqrt(v) + epsilon / k).
template<class A> struct Adam {
  A b1, b2, epsilon, rate, decay, bound;
  BP_DEV void prepare(const double* hyper, double step) {
    // 1 - beta^t is -expm1(t log1p(-(1 - beta))), which needs no float64 to be good where beta^t is close to 1.
    const A t = A(step), rest1 = A(1 - hyper[2]), rest2 = A(1 - hyper[3]);
    const A k = sqrt(rest2 / -expm1(t * log1p(-rest2)));
    b1 = A(hyper[2]), b2 = A(hyper[3]), epsilon = A(hyper[4]) / k;
    rate = A(hyper[1]) * (rest1 / -expm1(t * log1p(-rest1))) / k;
    decay = A(1 - hyper[1] * hyper[5]), bound = largest_gradient<A>() * sqrt(rest2);
  }
  BP_DEV A change(A g, A& m, A& v) const {
    g = clip(g, bound);
    m = b1 * m + g;
    v = b2 * v + g * g;
    return rate * (m / (sqrt(v) + epsilon));
  }
};
