// Losses: value, gradient, weights and the count of right answers, in one to three passes over the rows.
//
// total is (models, 3): the sum of w e, the sum of w, and the number of right answers (formula.py). A row's gradient
// has the factor scale scales w share: scale is a number, such as 1/B; scales has one for each model, 1/sum(w) for
// weighted rows, and in float16 what the loss is scaled by. The value of the loss has neither of the two.
#include "losses.cuh"
#include "rows.cuh"

// The sums of a thread over its rows, and their reduction over all threads into the total.
struct LossSum {
  Vec<double, 2> sum;  // of the loss, of the right answers
  BP_DEV LossSum() : sum(filled<2>(0.0)) {}
  BP_DEV void add(const Rows& row, double e, bool right) {
    if (row.live() && row.lane == 0) sum.at[0] += e, sum.at[1] += right;
  }
  BP_DEV void finish(double* total, double* part, u32* tickets) {
    if (!grid_sum<AlongX>(sum, part, tickets)) return;
    total[blockIdx.z * 3 + LOSS] += sum.at[0], total[blockIdx.z * 3 + CORRECT] += sum.at[1];
  }
};

template<class A> BP_DEV A weight_of(const A* weights, const Rows& row) {
  return weights ? weights[row.index()] : A(1);
}
template<class A> BP_DEV A factor_of(A scale, const double* scales, i64 step) {
  return scales ? scale * A(scales[blockIdx.z * step]) : scale;
}

// grad_y = factor de/dy, total += w e
template<class T, class E, class L>
__global__ void __launch_bounds__(256, 3) loss_gradient(
    const T* y,             // [models, rows, cols]
    const L* target,        // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,  // [models, rows]?
    const double* scales,   // [models]?
    T* grad_y,              // [models, rows, cols]?
    double* total,          // [models, 3]
    double* part,           // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 scales_step, i64 rows, int cols, int target_cols, acc<T> scale, acc<T> share, acc<T> smoothing, acc<T> setting,
    int accuracy) {
  typedef acc<T> A;
  const A rest = A(1) - smoothing, even = smoothing / A(cols), factor = factor_of(scale, scales, scales_step) * share;
  LossSum loss_sum;
  for (Rows row(rows, cols); row.more(); row.next()) {
    const Target<L> target_of(target + row.index() * target_cols);
    const bool bad = target_of.bad(cols);
    const A w = weight_of(weights, row);
    Answer<A> answer(accuracy, A(0.5));
    A e = A(0);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const i64 i = row.start() + c;
      const A yc = to_acc(y[i]), plain = A(target_of.of(c)), t = rest * plain + even;
      e += E::value(yc, t, setting);
      if (grad_y) grad_y[i] = from_acc<T>(bad ? A(0) : factor * w * E::slope(yc, t, setting));
      answer.add(yc, plain, c);
    }
    e = lane_reduce<Sum>(e, row.lanes) * share * w;
    const bool right = answer.is_right(row.lanes) && !bad;
    loss_sum.add(row, bad ? not_a_number<double>() : double(e), right);
  }
  loss_sum.finish(total, part, tickets);
}

// v = z + b, y = softmax(v), e = log(sum of e^v) - sum of t v, grad_z = factor (y - t)
template<class T, class L>
__global__ void __launch_bounds__(256) softmax_cross_entropy(
    const T* z,             // [models, rows, cols]
    const acc<T>* b,        // [models, cols]?
    const L* target,        // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,  // [models, rows]?
    const double* scales,   // [models]?
    T* grad_z,              // [models, rows, cols]? may be z
    double* total,          // [models, 3]
    double* part,           // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 b_step, i64 scales_step, i64 rows, int cols, int target_cols, acc<T> scale, acc<T> smoothing, int accuracy) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  const A rest = A(1) - smoothing, even = smoothing / A(cols), factor = factor_of(scale, scales, scales_step);
  LossSum loss_sum;
  for (Rows row(rows, cols); row.more(); row.next()) {
    const Target<L> target_of(target + row.index() * target_cols);
    const bool bad = target_of.bad(cols);
    const A w = weight_of(weights, row);
    Answer<A> answer(accuracy, A(0));
    const A e = softmax_loss(
        row.lane, row.lanes, row.cols, target_of, rest, even, answer,
        [&](int c) { return to_acc(z[row.start() + c]) + (bias ? bias[c] : A(0)); },
        [&](int c, A p, A t) {
          if (grad_z) grad_z[row.start() + c] = from_acc<T>(bad ? A(0) : factor * w * (p - t));
        });
    const bool right = answer.is_right(row.lanes) && !bad;
    loss_sum.add(row, bad ? not_a_number<double>() : double(e * w), right);
  }
  loss_sum.finish(total, part, tickets);
}

// v = z + b, y = 1/(1 + e^-v), e = sum of max(v, 0) - v t + log(1 + e^-|v|), grad_z = factor (y - t)
template<class T>
__global__ void __launch_bounds__(256, 3) sigmoid_cross_entropy(
    const T* z,             // [models, rows, cols]
    const acc<T>* b,        // [models, cols]?
    const acc<T>* target,   // [models, rows, cols]
    const acc<T>* weights,  // [models, rows]?
    const double* scales,   // [models]?
    T* grad_z,              // [models, rows, cols]? may be z
    double* total,          // [models, 3]
    double* part,           // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 b_step, i64 scales_step, i64 rows, int cols, acc<T> scale, int accuracy) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  const A factor = factor_of(scale, scales, scales_step);
  LossSum loss_sum;
  for (Rows row(rows, cols); row.more(); row.next()) {
    const A w = weight_of(weights, row);
    Answer<A> answer(accuracy, A(0));
    A e = A(0);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const i64 i = row.start() + c;
      const A v = to_acc(z[i]) + (bias ? bias[c] : A(0)), t = target[i], p = sigmoid(v);
      e += sigmoid_loss(v, t);
      answer.add(v, t, c);
      if (grad_z) grad_z[i] = from_acc<T>(factor * w * (p - t));
    }
    e = lane_reduce<Sum>(e, row.lanes) * w;
    const bool right = answer.is_right(row.lanes);
    loss_sum.add(row, double(e), right);
  }
  loss_sum.finish(total, part, tickets);
}

// factor = 0 where the sum of w is, else 1; scales = S/sum, or S where that is 0, total += sum. S is 1 unless given. One
// block a model.
template<class A>
__global__ void __launch_bounds__(256) normalize_weights(
    const A* weights,          // [models, rows]
    const double* loss_scale,  // [models]? S
    double* factor,            // [models]
    double* scales,            // [models]?
    double* total,             // [models, 3]
    i64 loss_scale_step, i64 rows) {
  double sum = 0;
  for (i64 r = thread(); r < rows; r += threads()) sum += double(weights[blockIdx.z * rows + r]);
  sum = block_reduce<Sum>(sum);
  if (thread() != 0) return;
  factor[blockIdx.z] = sum != 0;
  total[blockIdx.z * 3 + WEIGHT] += sum;
  if (scales) scales[blockIdx.z] = (loss_scale ? loss_scale[blockIdx.z * loss_scale_step] : 1) / (sum == 0 ? 1 : sum);
}
