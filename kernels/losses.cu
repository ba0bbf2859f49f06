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
  BP_DEV void finish(double* total, double* partial, u32* tickets) {
    if (!grid_sum<AlongX>(sum, partial, tickets)) return;
    total[blockIdx.z * 3 + LOSS] += sum.at[0], total[blockIdx.z * 3 + CORRECT] += sum.at[1];
  }
};

// What all losses do with the rows of a thread. each(row, target, answer, give) returns e from all lanes of a row, tells
// `answer` each output and its target and, where there is a gradient, gives give(c, slope).
template<class T, class L, class Each>
BP_DEV void for_each_row(
    const L* target, int target_cols, const acc<T>* weights, acc<T> factor, T* grad, double* total, double* partial,
    u32* tickets, i64 rows, int cols, int accuracy, acc<T> half, Each each) {
  typedef acc<T> A;
  LossSum loss_sum;
  for (Rows row(rows, cols); row.more(); row.next()) {
    const Target<L> target_of(target + row.index() * target_cols);
    const bool bad = target_of.bad(cols);
    const A w = weights ? weights[row.index()] : A(1);
    Answer<A> answer(accuracy, half);
    const A e = w * each(row, target_of, answer, [&](int c, A slope) {
      grad[row.start() + c] = from_acc<T>(bad ? A(0) : factor * w * slope);
    });
    const bool right = answer.is_right(row.lanes) && !bad && is_row(w);
    loss_sum.add(row, bad ? not_a_number<double>() : double(e), right);
  }
  loss_sum.finish(total, partial, tickets);
}

// grad_y = factor de/dy, total += w e
template<class T, class E, class L>
__global__ void __launch_bounds__(256, BlocksOf<T>::least) loss_gradient(
    const T* y,             // [models, rows, cols]
    const L* target,        // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,  // [models, rows]?
    const double* numbers,  // [models, count] label smoothing, and those of E
    const double* scales,   // [models]?
    T* grad_y,              // [models, rows, cols]?
    double* total,          // [models, 3]
    double* partial,        // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 scales_step, i64 rows, int cols, int target_cols, int count, acc<T> scale, acc<T> share, int accuracy) {
  typedef acc<T> A;
  const double* const own = numbers + i64(blockIdx.z) * count;
  const Smoothing<A> smooth{A(own[0]), cols};
  const typename E::template of<A> loss(own + 1);
  for_each_row(
      target, target_cols, weights, factor_of(scale, scales, scales_step) * share, grad_y, total, partial, tickets,
      rows, cols, accuracy, A(0.5), [&](const Rows& row, const Target<L>& target_of, Answer<A>& answer, auto give) {
        return share * formula_loss(
            row.lane, row.lanes, row.cols, target_of, smooth, answer, loss,
            [&](int c) { return to_acc(y[row.start() + c]); },
            [&](int c, A slope) {
              if (grad_y) give(c, slope);
            });
      });
}

// v = z + b, y = softmax(v), e = log(sum of e^v) - sum of t v, grad_z = factor (y - t)
template<class T, class L>
__global__ void __launch_bounds__(256, 3) softmax_cross_entropy(
    const T* z,             // [models, rows, cols]
    const acc<T>* b,        // [models, cols]?
    const L* target,        // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,  // [models, rows]?
    const double* numbers,  // [models, count] label smoothing first
    const double* scales,   // [models]?
    T* grad_z,              // [models, rows, cols]? may be z
    double* total,          // [models, 3]
    double* partial,        // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 b_step, i64 scales_step, i64 rows, int cols, int target_cols, int count, acc<T> scale, int accuracy) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  const Smoothing<A> smooth{A(numbers[i64(blockIdx.z) * count]), cols};
  for_each_row(
      target, target_cols, weights, factor_of(scale, scales, scales_step), grad_z, total, partial, tickets, rows, cols,
      accuracy, A(0), [&](const Rows& row, const Target<L>& target_of, Answer<A>& answer, auto give) {
        return softmax_loss(
            row.lane, row.lanes, row.cols, target_of, smooth, answer,
            [&](int c) { return to_acc(z[row.start() + c]) + (bias ? bias[c] : A(0)); },
            [&](int c, A p, A t) {
              if (grad_z) give(c, p - t);
            });
      });
}

// v = z + b, y = softmax(v), e = sum of t (1 - y)^gamma l with l = -log y, grad_z = factor (g - y sum of g), where g is t
// times the derivative of (1 - y)^gamma l by log y
template<class T, class L>
__global__ void __launch_bounds__(256, BlocksOf<T>::least) softmax_focal(
    const T* z,             // [models, rows, cols]
    const acc<T>* b,        // [models, cols]?
    const L* target,        // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,  // [models, rows]?
    const double* numbers,  // [models, count] gamma second
    const double* scales,   // [models]?
    T* grad_z,              // [models, rows, cols]? may be z
    double* total,          // [models, 3]
    double* partial,        // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 b_step, i64 scales_step, i64 rows, int cols, int target_cols, int count, acc<T> scale, int accuracy) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  const Focal<A> focal{A(numbers[i64(blockIdx.z) * count + 1])};
  for_each_row(
      target, target_cols, weights, factor_of(scale, scales, scales_step), grad_z, total, partial, tickets, rows, cols,
      accuracy, A(0), [&](const Rows& row, const Target<L>& target_of, Answer<A>& answer, auto give) {
        return focal_loss(
            row.lane, row.lanes, row.cols, target_of, focal, answer, grad_z != nullptr,
            [&](int c) { return to_acc(z[row.start() + c]) + (bias ? bias[c] : A(0)); }, give);
      });
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
    double* partial,        // [models, gridDim.x, 2]
    u32* tickets,           // [models]
    i64 b_step, i64 scales_step, i64 rows, int cols, acc<T> scale, int accuracy) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  for_each_row(
      target, cols, weights, factor_of(scale, scales, scales_step), grad_z, total, partial, tickets, rows, cols,
      accuracy, A(0), [&](const Rows& row, const Target<A>& target_of, Answer<A>& answer, auto give) {
        return sigmoid_row_loss(
            row.lane, row.lanes, row.cols, target_of, answer,
            [&](int c) { return to_acc(z[row.start() + c]) + (bias ? bias[c] : A(0)); },
            [&](int c, A slope) {
              if (grad_z) give(c, slope);
            });
      });
}

// factor = 0 where the sum of w is, else counted, which is 1 unless given; scales = S/sum, or S where that is 0, total +=
// sum. S is 1 unless given. One block a model.
template<class A>
__global__ void __launch_bounds__(256) normalize_weights(
    const A* weights,          // [models, rows]
    const double* loss_scale,  // [models]? S
    const double* counted,     // [models]?
    double* factor,            // [models]
    double* scales,            // [models]?
    double* total,             // [models, 3]
    i64 loss_scale_step, i64 rows) {
  double sum = 0;
  for (i64 r = thread(); r < rows; r += threads()) sum += double(weights[blockIdx.z * rows + r]);
  sum = block_reduce<Sum>(sum);
  if (thread() != 0) return;
  factor[blockIdx.z] = sum == 0 ? 0 : counted ? counted[blockIdx.z] : 1;
  total[blockIdx.z * 3 + WEIGHT] += sum;
  if (scales) scales[blockIdx.z] = (loss_scale ? loss_scale[blockIdx.z * loss_scale_step] : 1) / (sum == 0 ? 1 : sum);
}
