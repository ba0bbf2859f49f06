// Periodic embeddings of numbers (network/periodic.py): e_k = a_k + sum over h of A_hk cos u_h, u_h = 2 pi w_h x + b_h. The
// weight has a row (w, A) for each number and frequency; the bias b of each of these, then a of each unit.
//
// Angles are in half turns, for cospi and its like: they need no slow path for large ones.
#include "columns.cuh"

BP_DEV void sine_and_cosine(float half_turns, float* sine, float* cosine) { sincospif(half_turns, sine, cosine); }
BP_DEV void sine_and_cosine(double half_turns, double* sine, double* cosine) { sincospi(half_turns, sine, cosine); }

// The parameters of number i.
template<class A> struct OfNumber {
  const A *weight, *bias;
  const int frequencies, width;
  BP_DEV OfNumber(const A* weight, const A* bias, int i, int frequencies, int width, int terms)
      : weight(weight + i64(i) * frequencies * width), bias(bias + i64(i) * terms), frequencies(frequencies), width(width) {}
  BP_DEV A half_turns(int h, A x) const { return A(2) * w(h) * x + A(0.3183098861837907) * bias[h]; }
  BP_DEV A w(int h) const { return weight[h * width]; }
  template<class T> BP_DEV A times(int h, const T* g) const {  // A g
    A sum = A(0);
    for (int k = 1; k < width; k++) sum += weight[h * width + k] * to_acc(g[k - 1]);
    return sum;
  }
};

// y = (e, x) of each number, and the inputs behind them. A warp takes neighbouring rows, which share the parameters:
// blockDim = (rows, inputs), gridDim = (groups of rows, groups of inputs, models).
template<class T>
__global__ void __launch_bounds__(256) periodic(
    const T* x,            // [models, rows, inputs]
    const acc<T>* weight,  // [models, numbers, frequencies, width]
    const acc<T>* bias,    // [models, numbers, terms]
    T* y,                  // [models, rows, outputs]
    i64 weight_step, i64 bias_step, i64 rows, int inputs, int numbers, int frequencies, int width, int terms,
    int outputs) {
  typedef acc<T> A;
  const i64 r = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r >= rows) return;
  const T* const xs = x + (blockIdx.z * rows + r) * inputs;
  T* const ys = y + (blockIdx.z * rows + r) * outputs;
  BP_ROLLED
  for (int i = int(blockIdx.y * blockDim.y + threadIdx.y); i < inputs; i += int(gridDim.y * blockDim.y)) {
    if (i >= numbers) {
      ys[i + numbers * (width - 1)] = xs[i];
      continue;
    }
    const OfNumber<A> of(weight + blockIdx.z * weight_step, bias + blockIdx.z * bias_step, i, frequencies, width, terms);
    const A at = to_acc(xs[i]);
    for (int k = 0; k < width - 1; k += 4) {  // a few units at a time, for which the cosines are worked out
      A e[4];
      BP_UNROLLED
      for (int j = 0; j < 4; j++) e[j] = k + j < width - 1 ? of.bias[frequencies + k + j] : A(0);
      for (int h = 0; h < frequencies; h++) {
        const A cosine = cospi(of.half_turns(h, at));
        BP_UNROLLED
        for (int j = 0; j < 4; j++)
          if (k + j < width - 1) e[j] += of.weight[h * width + 1 + k + j] * cosine;
      }
      BP_UNROLLED
      for (int j = 0; j < 4; j++)
        if (k + j < width - 1) ys[i * width + k + j] = from_acc<T>(e[j]);
    }
    ys[i * width + width - 1] = xs[i];
  }
}

// grad_weight and grad_bias: with g the gradient of e and delta = -sin u (A g), summed over the rows, grad_A = cos u g,
// grad_a = g, grad_b = delta, grad_w = 2 pi x delta. A column is a frequency of a number, or one more whose cosine is 1,
// for a; and it has up to six units, so that there are more columns where units are more.
template<class T>
__global__ void __launch_bounds__(256) periodic_gradient(
    const T* x,            // [models, rows, inputs]
    const acc<T>* weight,  // [models, numbers, frequencies, width]
    const acc<T>* bias,    // [models, numbers, terms]
    const T* grad_y,       // [models, rows, outputs]
    acc<T>* grad_weight,   // [models, numbers, frequencies, width]
    acc<T>* grad_bias,     // [models, numbers, terms]
    acc<T>* partial,       // [models, gridDim.y, cols, 8]
    u32* tickets,          // [models, gridDim.x]
    i64 weight_step, i64 bias_step, i64 grad_weight_step, i64 grad_bias_step, i64 rows, int inputs, int numbers,
    int frequencies, int width, int terms, int outputs, int cols) {
  typedef acc<T> A;
  const int c = column<1>(), h = c % (frequencies + 1), passes = (width + 4) / 6, pass = c / (frequencies + 1) % passes;
  const int i = c / (frequencies + 1) / passes, first = 6 * pass;
  const bool constant = h == frequencies;
  Vec<A, 8> sum = filled<8>(A(0));  // of delta, x delta, and cos u g
  if (c < cols) {
    const OfNumber<A> of(weight + blockIdx.z * weight_step, bias + blockIdx.z * bias_step, i, frequencies, width, terms);
    BP_ROLLED
    for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
      const T* const g = grad_y + (blockIdx.z * rows + r) * outputs + i64(i) * width;
      A sine = A(0), cosine = A(1);
      if (!constant) {
        const A at = to_acc(x[(blockIdx.z * rows + r) * inputs + i]);
        sine_and_cosine(of.half_turns(h, at), &sine, &cosine);
        if (pass == 0) {
          const A delta = -sine * of.times(h, g);
          sum.at[0] += delta;
          sum.at[1] += at * delta;
        }
      }
      BP_UNROLLED
      for (int j = 0; j < 6; j++)
        if (first + j < width - 1) sum.at[2 + j] += cosine * to_acc(g[first + j]);
    }
  }
  if (!grid_sum<AlongY>(sum, partial, tickets, c * 8, cols * 8)) return;
  A* const to_weight = grad_weight + blockIdx.z * grad_weight_step + (i64(i) * frequencies + h) * width;
  A* const to_bias = grad_bias + blockIdx.z * grad_bias_step + i64(i) * terms + h;
  if (!constant && pass == 0) to_bias[0] = sum.at[0], to_weight[0] = A(6.283185307179586) * sum.at[1];
  BP_UNROLLED
  for (int j = 0; j < 6; j++)
    if (first + j < width - 1) (constant ? to_bias : to_weight + 1)[first + j] = sum.at[2 + j];
}

// grad_x = the gradient of the x in y + 2 pi times the sum over h of w delta, and of the inputs behind the numbers that
// of y. Launched as periodic is.
template<class T>
__global__ void __launch_bounds__(256) periodic_gradient_x(
    const T* x,            // [models, rows, inputs]
    const acc<T>* weight,  // [models, numbers, frequencies, width]
    const acc<T>* bias,    // [models, numbers, terms]
    const T* grad_y,       // [models, rows, outputs]
    T* grad_x,             // [models, rows, inputs]
    i64 weight_step, i64 bias_step, i64 rows, int inputs, int numbers, int frequencies, int width, int terms,
    int outputs) {
  typedef acc<T> A;
  const i64 r = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r >= rows) return;
  const T* const xs = x + (blockIdx.z * rows + r) * inputs;
  const T* const gs = grad_y + (blockIdx.z * rows + r) * outputs;
  T* const to = grad_x + (blockIdx.z * rows + r) * inputs;
  BP_ROLLED
  for (int i = int(blockIdx.y * blockDim.y + threadIdx.y); i < inputs; i += int(gridDim.y * blockDim.y)) {
    if (i >= numbers) {
      to[i] = gs[i + numbers * (width - 1)];
      continue;
    }
    const OfNumber<A> of(weight + blockIdx.z * weight_step, bias + blockIdx.z * bias_step, i, frequencies, width, terms);
    const T* const g = gs + i * width;
    const A at = to_acc(xs[i]);
    A sum = A(0);
    BP_ROLLED
    for (int h = 0; h < frequencies; h++) sum += of.w(h) * (sinpi(of.half_turns(h, at)) * of.times(h, g));
    to[i] = from_acc<T>(to_acc(g[width - 1]) - A(6.283185307179586) * sum);
  }
}
