// Losses: value, gradient, weights and the count of right answers, from a pass or three over the rows.
//
// total is (models, 3): the sum of w e, the sum of w, and the number of right answers (formula.py). A row's factor is
// scale w share, where scale is 1/B, or for weighted rows 1/sum(w), which lies in scales.
#include "rows.cuh"

enum { LOSS = 0, WEIGHT = 1, HITS = 2 };
enum { NOTHING = 0, LARGEST = 1, SIDE = 2 };  // what counts as a right answer

// The target of a row: a label, or one number an output.
template<class L> struct Target {
  const L* row;
  BP_DEV Target(const L* target, const Rows& at) : row(target + at.start()) {}
  BP_DEV L of(int c) const { return row[c]; }
  BP_DEV bool bad(int) const { return false; }
};
template<> struct Target<i64> {
  i64 label;
  BP_DEV Target(const i64* target, const Rows& at) : label(target[at.index()]) {}
  BP_DEV int of(int c) const { return c == label; }
  BP_DEV bool bad(int cols) const { return label < 0 || label >= cols; }
};

// The place of the largest number: the first of equals, and of NaNs, as numpy.argmax has it. -1: none was seen.
template<class A> struct Largest {
  A value;
  int place;
  BP_DEV void see(A other, int at) {
    if (at < 0) return;
    const bool first = place < 0 || (other == value || (other != other && value != value) ? at < place
                                     : other != other || (value == value && other > value));
    if (first) value = other, place = at;
  }
  BP_DEV void reduce(int lanes) {
    for (int offset = lanes / 2; offset; offset /= 2) {
      const A other = __shfl_xor_sync(0xffffffffu, value, offset);
      see(other, __shfl_xor_sync(0xffffffffu, place, offset));
    }
  }
};

// Whether a row is answered rightly, from its outputs and targets one by one. half: 1/2 for y, 0 where z is looked at.
template<class A> struct Answer {
  const int hit;
  const A half;
  Largest<A> given, right;
  int wrong;
  BP_DEV Answer(int hit, A half) : hit(hit), half(half), given{A(0), -1}, right{A(0), -1}, wrong(0) {}
  BP_DEV void see(A output, A target, int c) {
    if (hit == LARGEST) given.see(output, c), right.see(target, c);
    if (hit == SIDE) wrong += (output > half) != (target > A(0.5));
  }
  BP_DEV bool is_right(int lanes) {  // all lanes of a row together
    if (hit == LARGEST) given.reduce(lanes), right.reduce(lanes);
    if (hit == SIDE) wrong = lane_reduce<Sum>(wrong, lanes);
    return hit == LARGEST ? given.place == right.place : hit == SIDE && wrong == 0;
  }
};

// What a thread has added up of its rows, and how the sums of all threads come to the total.
struct Account {
  double loss, hits;
  BP_DEV Account() : loss(0), hits(0) {}
  BP_DEV void enter(const Rows& row, double e, bool hit) {
    if (row.live() && row.lane == 0) loss += e, hits += hit;
  }
  BP_DEV void close(double* total, double* part, u32* tickets) {
    loss = block_reduce<Sum>(loss), hits = block_reduce<Sum>(hits);
    if (gridDim.x > 1) {
      double* const parts = part + i64(blockIdx.z) * gridDim.x * 2;
      if (thread() == 0) parts[blockIdx.x * 2] = loss, parts[blockIdx.x * 2 + 1] = hits;
      if (!last_block(tickets + blockIdx.z, gridDim.x)) return;
      const volatile double* const seen = parts;
      loss = hits = 0;
      for (int block = thread(); block < int(gridDim.x); block += threads())
        loss += seen[block * 2], hits += seen[block * 2 + 1];
      loss = block_reduce<Sum>(loss), hits = block_reduce<Sum>(hits);
    }
    if (thread() == 0) total[blockIdx.z * 3 + LOSS] += loss, total[blockIdx.z * 3 + HITS] += hits;
  }
};

template<class A> BP_DEV A weight_of(const A* weights, const Rows& row) { return weights ? weights[row.index()] : A(1); }
template<class A> BP_DEV A scale_of(const A* scales, A scale) { return scales ? scales[blockIdx.z] : scale; }
template<class A> BP_DEV A not_a_number() { return A(nan("")); }

// grad_y = factor de/dy, total += w e
template<class T, class E, class L>
__global__ void __launch_bounds__(256) loss_gradient(
    const T* y,             // [models, rows, cols]
    const L* target,        // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,  // [models, rows]?
    const acc<T>* scales,   // [models]? in place of scale
    T* grad_y,              // [models, rows, cols]?
    double* total,          // [models, 3]
    double* part,           // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 rows, int cols, int target_cols, acc<T> scale, acc<T> share, acc<T> smoothing, int hit) {
  typedef acc<T> A;
  const A rest = A(1) - smoothing, even = smoothing / A(cols), factor = scale_of(scales, scale) * share;
  Account account;
  for (Rows row(rows, cols); row.more(); row.next()) {
    const Target<L> target_of(target, row);
    const bool bad = target_of.bad(cols);
    const A w = weight_of(weights, row);
    Answer<A> answer(hit, A(0.5));
    A e = A(0);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const i64 i = row.start() + c;
      const A yc = up(y[i]), plain = A(target_of.of(c)), t = rest * plain + even;
      e += E::value(yc, t);
      if (grad_y) grad_y[i] = down<T>(bad ? A(0) : factor * w * E::slope(yc, t));
      answer.see(yc, plain, c);
    }
    e = lane_reduce<Sum>(e, row.lanes) * share * w;
    const bool right = answer.is_right(row.lanes) && !bad;
    account.enter(row, bad ? not_a_number<double>() : double(e), right);
  }
  account.close(total, part, tickets);
}

// v = z + b, y = softmax(v), e = log(sum of e^v) - sum of t v, grad_z = factor (y - t)
template<class T, class L>
__global__ void __launch_bounds__(256) softmax_cross_entropy(
    const T* z,             // [models, rows, cols]
    const acc<T>* b,        // [models, cols]?
    const L* target,        // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,  // [models, rows]?
    const acc<T>* scales,   // [models]? in place of scale
    T* y,                   // [models, rows, cols]? may be z
    T* grad_z,              // [models, rows, cols]? may be z
    double* total,          // [models, 3]
    double* part,           // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 b_step, i64 rows, int cols, int target_cols, acc<T> scale, acc<T> smoothing, int hit) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  const A rest = A(1) - smoothing, even = smoothing / A(cols), factor = scale_of(scales, scale);
  Account account;
  for (Rows row(rows, cols); row.more(); row.next()) {
    const Target<L> target_of(target, row);
    const bool bad = target_of.bad(cols);
    const A w = weight_of(weights, row);
    Answer<A> answer(hit, A(0));
    A top = Maximum::identity<A>(), sum = A(0), low = A(0);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const A v = up(z[row.start() + c]) + (bias ? bias[c] : A(0));
      top = Maximum::of(top, v);
      answer.see(v, A(target_of.of(c)), c);
    }
    top = lane_reduce<Maximum>(top, row.lanes);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const A v = up(z[row.start() + c]) + (bias ? bias[c] : A(0)) - top;
      sum += exp(v);
      const A t = rest * A(target_of.of(c)) + even;
      if (t != A(0)) low += t * v;  // v may be -inf, where p is 0 and all is well
    }
    sum = lane_reduce<Sum>(sum, row.lanes);
    low = lane_reduce<Sum>(low, row.lanes);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const i64 i = row.start() + c;
      const A p = exp(up(z[i]) + (bias ? bias[c] : A(0)) - top) / sum, t = rest * A(target_of.of(c)) + even;
      if (y) y[i] = down<T>(p);
      if (grad_z) grad_z[i] = down<T>(bad ? A(0) : factor * w * (p - t));
    }
    const bool right = answer.is_right(row.lanes) && !bad;
    account.enter(row, bad ? not_a_number<double>() : double((log(sum) - low) * w), right);
  }
  account.close(total, part, tickets);
}

// v = z + b, y = 1/(1 + e^-v), e = sum of max(v, 0) - v t + log(1 + e^-|v|), grad_z = factor (y - t)
template<class T>
__global__ void __launch_bounds__(256, 3) sigmoid_cross_entropy(
    const T* z,             // [models, rows, cols]
    const acc<T>* b,        // [models, cols]?
    const acc<T>* target,   // [models, rows, cols]
    const acc<T>* weights,  // [models, rows]?
    const acc<T>* scales,   // [models]? in place of scale
    T* y,                   // [models, rows, cols]? may be z
    T* grad_z,              // [models, rows, cols]? may be z
    double* total,          // [models, 3]
    double* part,           // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 b_step, i64 rows, int cols, acc<T> scale, int hit) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  const A factor = scale_of(scales, scale);
  Account account;
  for (Rows row(rows, cols); row.more(); row.next()) {
    const A w = weight_of(weights, row);
    Answer<A> answer(hit, A(0));
    A e = A(0);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const i64 i = row.start() + c;
      const A v = up(z[i]) + (bias ? bias[c] : A(0)), t = target[i], p = A(1) / (A(1) + exp(-v));
      e += Maximum::of(v, A(0)) - v * t + log1p(exp(-fabs(v)));
      answer.see(v, t, c);
      if (y) y[i] = down<T>(p);
      if (grad_z) grad_z[i] = down<T>(factor * w * (p - t));
    }
    e = lane_reduce<Sum>(e, row.lanes) * w;
    const bool right = answer.is_right(row.lanes);
    account.enter(row, double(e), right);
  }
  account.close(total, part, tickets);
}

// weight_sum = the sum of w, scales = 1/weight_sum, or 1 where that is 0, total += weight_sum. One block a model.
template<class A>
__global__ void __launch_bounds__(256) weigh(
    const A* weights,    // [models, rows]
    double* weight_sum,  // [models]
    A* scales,           // [models]?
    double* total,       // [models, 3]
    i64 rows) {
  double sum = 0;
  for (i64 r = thread(); r < rows; r += threads()) sum += double(weights[blockIdx.z * rows + r]);
  sum = block_reduce<Sum>(sum);
  if (thread() != 0) return;
  weight_sum[blockIdx.z] = sum;
  total[blockIdx.z * 3 + WEIGHT] += sum;
  if (scales) scales[blockIdx.z] = A(sum == 0 ? 1 : 1 / sum);
}
