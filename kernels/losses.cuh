// The parts of a row's loss: its target, whether its answer is right, and the losses that take z, not y.
#include "port.cuh"

enum { LOSS = 0, WEIGHT = 1, CORRECT = 2 };
enum { NOTHING = 0, ARGMAX = 1, THRESHOLD = 2 };  // what counts as a right answer

// The target of a row: a label, or one number an output.
template<class L> struct Target {
  const L* row;
  BP_DEV explicit Target(const L* row) : row(row) {}
  BP_DEV L of(int c) const { return row[c]; }
  BP_DEV bool bad(int) const { return false; }
};
template<> struct Target<i64> {
  i64 label;
  BP_DEV explicit Target(const i64* row) : label(*row) {}
  BP_DEV int of(int c) const { return c == label; }
  BP_DEV bool bad(int cols) const { return label < 0 || label >= cols; }
};

// The index of the largest number: the first of equals, and of NaNs, as numpy.argmax has it. -1: none was seen.
template<class A> struct Largest {
  A value;
  int place;
  BP_DEV void add(A other, int at) {
    if (at < 0) return;
    const bool first = place < 0 || (other == value || (other != other && value != value) ? at < place
                                     : other != other || (value == value && other > value));
    if (first) value = other, place = at;
  }
  BP_DEV void reduce(int lanes) {
    for (int offset = lanes / 2; offset; offset /= 2) {
      const A other = __shfl_xor_sync(0xffffffffu, value, offset);
      add(other, __shfl_xor_sync(0xffffffffu, place, offset));
    }
  }
};

// Whether a row is right, from its outputs and targets one by one. half: 1/2 for y, 0 for z.
template<class A> struct Answer {
  const int accuracy;
  const A half;
  Largest<A> given, right;
  int wrong;
  BP_DEV Answer(int accuracy, A half) : accuracy(accuracy), half(half), given{A(0), -1}, right{A(0), -1}, wrong(0) {}
  BP_DEV void add(A output, A target, int c) {
    if (accuracy == ARGMAX) given.add(output, c), right.add(target, c);
    if (accuracy == THRESHOLD) wrong += (output > half) != (target > A(0.5));
  }
  BP_DEV bool is_right(int lanes) {  // all lanes of a row together
    if (accuracy == ARGMAX) given.reduce(lanes), right.reduce(lanes);
    if (accuracy == THRESHOLD) wrong = lane_reduce<Sum>(wrong, lanes);
    return accuracy == ARGMAX ? given.place == right.place : accuracy == THRESHOLD && wrong == 0;
  }
};

// Whether there is a row: where there is none, its weight is -0.
template<class A> BP_DEV bool is_row(A weight) { return copysign(A(1), weight) > A(0); }

// t <- rest t + even; the share of the latter is the first number of a loss.
template<class A> struct Smoothing {
  A rest, even;
  BP_DEV Smoothing(A share, int cols) : rest(A(1) - share), even(share / A(cols)) {}
  BP_DEV A of(A t) const { return rest * t + even; }
};

template<class A> BP_DEV A not_a_number() { return A(nan("")); }

// e = log(sum of e^v) - sum of t v, where p = softmax(v): v and t of a row that some lanes share. give(c, p, t) takes
// what the gradient is made of, with the smoothed t.
template<class A, class L, class V, class Give>
BP_DEV A softmax_loss(
    int lane, int lanes, int cols, const Target<L>& target, Smoothing<A> smooth, Answer<A>& answer, V v_of, Give give) {
  A top = Maximum::identity<A>(), sum = A(0), dot = A(0);
  for (int c = lane; c < cols; c += lanes) {
    const A v = v_of(c);
    top = Maximum::of(top, v);
    answer.add(v, A(target.of(c)), c);
  }
  top = lane_reduce<Maximum>(top, lanes);
  for (int c = lane; c < cols; c += lanes) {
    const A v = v_of(c) - top, t = smooth.of(A(target.of(c)));
    sum += exp(v);
    if (t != A(0)) dot += t * v;  // v may be -inf, where p is 0 and all is well
  }
  sum = lane_reduce<Sum>(sum, lanes);
  dot = lane_reduce<Sum>(dot, lanes);
  for (int c = lane; c < cols; c += lanes) give(c, exp(v_of(c) - top) / sum, smooth.of(A(target.of(c))));
  return log(sum) - dot;
}

// How many blocks share a multiprocessor at least: a formula in double may take more registers than a third leaves it.
template<class T> struct BlocksOf { enum { least = 3 }; };
template<> struct BlocksOf<double> { enum { least = 2 }; };

// e = sum of a loss's formula of y and the smoothed t, over a row that some lanes share. give(c, slope) takes its
// derivatives by y.
template<class A, class L, class E, class Y, class Give>
BP_DEV A formula_loss(
    int lane, int lanes, int cols, const Target<L>& target, Smoothing<A> smooth, Answer<A>& answer, const E& loss,
    Y y_of, Give give) {
  A e = A(0);
  for (int c = lane; c < cols; c += lanes) {
    const A y = y_of(c), plain = A(target.of(c)), t = smooth.of(plain);
    e += loss.value(y, t);
    give(c, loss.slope(y, t));
    answer.add(y, plain, c);
  }
  return lane_reduce<Sum>(e, lanes);
}

// The focal loss of one output, from l = -log p >= 0: e = (1 - p)^gamma l, and its derivative by log p, which is
// -(1 - p)^gamma (1 + gamma l p/(1 - p)), where 1 - p = 1 - e^-l and p/(1 - p) = 1/(e^l - 1).
template<class A> struct Focal {
  A gamma;
  BP_DEV A power(A l) const {
    const A rest = -expm1(-l);
    return exp(gamma * log(rest < tiny<A>() ? tiny<A>() : rest));
  }
  BP_DEV A value(A l) const { return power(l) * l; }
  BP_DEV A slope(A l) const {
    const A least = l < A(1000) ? l : A(1000);  // where the quotient is 0, and not inf/inf
    return -power(l) * (A(1) + gamma * (l == A(0) ? A(1) : least / expm1(least)));
  }
};

// e = sum of t (1 - p)^gamma l with l = -log p, where p = softmax(v), as softmax_loss. give(c, slope) takes
// g - p sum of g, where g is t times the derivative of (1 - p)^gamma l by log p, and is asked to only where wanted.
template<class A, class L, class V, class Give>
BP_DEV A focal_loss(
    int lane, int lanes, int cols, const Target<L>& target, Focal<A> focal, Answer<A>& answer, bool wanted, V v_of,
    Give give) {
  A top = Maximum::identity<A>(), sum = A(0), e = A(0), slopes = A(0);
  for (int c = lane; c < cols; c += lanes) {
    top = Maximum::of(top, v_of(c));
    answer.add(v_of(c), A(target.of(c)), c);
  }
  top = lane_reduce<Maximum>(top, lanes);
  for (int c = lane; c < cols; c += lanes) sum += exp(v_of(c) - top);
  sum = lane_reduce<Sum>(sum, lanes);
  const A log_sum = log(sum);
  for (int c = lane; c < cols; c += lanes) {
    const A t = A(target.of(c)), l = log_sum - (v_of(c) - top);
    if (t != A(0)) e += t * focal.value(l), slopes += t * focal.slope(l);  // else l may be infinite
  }
  e = lane_reduce<Sum>(e, lanes), slopes = lane_reduce<Sum>(slopes, lanes);
  for (int c = lane; c < cols && wanted; c += lanes) {
    const A t = A(target.of(c)), below = v_of(c) - top, p = exp(below) / sum;
    give(c, (t != A(0) ? t * focal.slope(log_sum - below) : A(0)) - p * slopes);
  }
  return e;
}

// p = 1/(1 + e^-v), and e = max(v, 0) - v t + log(1 + e^-|v|) of one output
template<class A> BP_DEV A sigmoid(A v) { return A(1) / (A(1) + exp(-v)); }
template<class A> BP_DEV A sigmoid_loss(A v, A t) { return Maximum::of(v, A(0)) - v * t + log1p(exp(-fabs(v))); }

// The sum of e over a row that some lanes share. give(c, slope) takes p - t.
template<class A, class L, class V, class Give>
BP_DEV A sigmoid_row_loss(
    int lane, int lanes, int cols, const Target<L>& target, Answer<A>& answer, V v_of, Give give) {
  A e = A(0);
  for (int c = lane; c < cols; c += lanes) {
    const A v = v_of(c), t = A(target.of(c));
    e += sigmoid_loss(v, t);
    answer.add(v, t, c);
    give(c, sigmoid(v) - t);
  }
  return lane_reduce<Sum>(e, lanes);
}

// What the gradient of a model's loss is multiplied by.
template<class A> BP_DEV A factor_of(A scale, const double* scales, i64 step) {
  return scales ? scale * A(scales[blockIdx.z * step]) : scale;
}
