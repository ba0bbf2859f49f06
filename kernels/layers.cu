// Forward and backward of the layers: activations, their gradients, sums over rows for the biases.
#include "columns.cuh"

// y = f(z + b)
template<class T, class F, int V>
__global__ void __launch_bounds__(256, 4) bias_activate(
    T* z,             // [models, rows, cols], becomes z + b where store_z is 1
    const acc<T>* b,  // [models, cols]?
    T* y,             // [models, rows, cols], may be z
    i64 b_step, i64 rows, int cols, int store_z) {
  typedef acc<T> A;
  const int c = column<V>();
  if (c >= cols) return;
  const i64 first = blockIdx.z * rows * cols + c;
  const Vec<A, V> bias = b ? load<V>(b + blockIdx.z * b_step + c) : filled<V>(A(0));
  BP_ROLLED
  for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
    Vec<T, V> zs = load<V>(z + first + r * cols), ys;
    for (int k = 0; k < V; k++) {
      const A a = to_acc(zs.at[k]) + bias.at[k];
      zs.at[k] = from_acc<T>(a);
      ys.at[k] = from_acc<T>(F::value(a));
    }
    if (store_z) store(z + first + r * cols, zs);
    store(y + first + r * cols, ys);
  }
}

// grad_z = grad_y . f'(s), and on the way grad_bias, its sum over the rows
template<class T, class F, int V>
__global__ void __launch_bounds__(256, 4) activation_gradient(
    const T* grad_y,    // [models, rows, cols]
    const T* s,         // [models, rows, cols]? null where f' is 1
    T* grad_z,          // [models, rows, cols], may be grad_y
    acc<T>* grad_bias,  // [models, cols]?
    acc<T>* partial,    // [models, gridDim.y, cols]? null where there is no grad_bias
    u32* tickets,       // [models, gridDim.x]? likewise
    i64 grad_bias_step, i64 rows, int cols) {
  typedef acc<T> A;
  const int c = column<V>();
  const i64 first = blockIdx.z * rows * cols + c;
  Vec<A, V> sum = filled<V>(A(0));
  if (c < cols)
    BP_ROLLED
    for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
      Vec<T, V> grad = load<V>(grad_y + first + r * cols);
      const Vec<T, V> at = s ? load<V>(s + first + r * cols) : grad;
      for (int k = 0; k < V; k++) {
        const A a = to_acc(grad.at[k]) * F::slope(A(to_acc(at.at[k])));
        grad.at[k] = from_acc<T>(a);
        sum.at[k] += a;
      }
      store(grad_z + first + r * cols, grad);
    }
  if (grad_bias && grid_sum<AlongY>(sum, partial, tickets, c, cols))
    store(grad_bias + blockIdx.z * grad_bias_step + c, sum);
}

// grad_bias = the sum of grad_z over the rows
template<class T, int V>
__global__ void __launch_bounds__(256) column_sum(
    const T* grad_z,    // [models, rows, cols]
    acc<T>* grad_bias,  // [models, cols]
    acc<T>* partial,    // [models, gridDim.y, cols]
    u32* tickets,       // [models, gridDim.x]
    i64 grad_bias_step, i64 rows, int cols) {
  typedef acc<T> A;
  const int c = column<V>();
  const i64 first = blockIdx.z * rows * cols + c;
  Vec<A, V> sum = filled<V>(A(0));
  if (c < cols)
    for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
      const Vec<T, V> grad = load<V>(grad_z + first + r * cols);
      for (int k = 0; k < V; k++) sum.at[k] += to_acc(grad.at[k]);
    }
  if (grid_sum<AlongY>(sum, partial, tickets, c, cols)) store(grad_bias + blockIdx.z * grad_bias_step + c, sum);
}

// z = x . s
template<class T, int V>
__global__ void __launch_bounds__(256) scale_columns(
    const T* x,             // [models, rows, cols]
    const acc<T>* factors,  // [models, cols]
    T* z,                   // [models, rows, cols], may be x
    i64 factors_step, i64 rows, int cols) {
  const int c = column<V>();
  if (c >= cols) return;
  const i64 first = blockIdx.z * rows * cols + c;
  const Vec<acc<T>, V> s = load<V>(factors + blockIdx.z * factors_step + c);
  BP_ROLLED
  for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
    Vec<T, V> xs = load<V>(x + first + r * cols);
    for (int k = 0; k < V; k++) xs.at[k] = from_acc<T>(to_acc(xs.at[k]) * s.at[k]);
    store(z + first + r * cols, xs);
  }
}

// grad_factors = the sum of x . grad_z over the rows, and on the way grad_x = grad_z . s
template<class T, int V>
__global__ void __launch_bounds__(256) scale_columns_gradient(
    const T* x,             // [models, rows, cols]
    const T* grad_z,        // [models, rows, cols]
    const acc<T>* factors,  // [models, cols]? null where there is no grad_x
    T* grad_x,              // [models, rows, cols]? may be grad_z
    acc<T>* grad_factors,   // [models, cols]
    acc<T>* partial,        // [models, gridDim.y, cols]
    u32* tickets,           // [models, gridDim.x]
    i64 factors_step, i64 grad_factors_step, i64 rows, int cols) {
  typedef acc<T> A;
  const int c = column<V>();
  const i64 first = blockIdx.z * rows * cols + c;
  Vec<A, V> sum = filled<V>(A(0));
  if (c < cols) {
    const Vec<A, V> s = grad_x ? load<V>(factors + blockIdx.z * factors_step + c) : sum;
    BP_ROLLED
    for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
      const Vec<T, V> xs = load<V>(x + first + r * cols);
      Vec<T, V> grad = load<V>(grad_z + first + r * cols);
      for (int k = 0; k < V; k++) {
        const A a = to_acc(grad.at[k]);
        sum.at[k] += to_acc(xs.at[k]) * a;
        grad.at[k] = from_acc<T>(a * s.at[k]);
      }
      if (grad_x) store(grad_x + first + r * cols, grad);
    }
  }
  if (grid_sum<AlongY>(sum, partial, tickets, c, cols)) store(grad_factors + blockIdx.z * grad_factors_step + c, sum);
}

// out = a . b
template<class T, int V>
__global__ void __launch_bounds__(256) multiply(
    const T* a,  // [n]
    const T* b,  // [n]
    T* out,      // [n], may be a or b
    i64 n) {
  const i64 step = i64(gridDim.x) * blockDim.x * V;
  BP_ROLLED
  for (i64 i = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * V; i < n; i += step) {
    Vec<T, V> as = load<V>(a + i);
    const Vec<T, V> bs = load<V>(b + i);
    for (int k = 0; k < V; k++) as.at[k] = from_acc<T>(to_acc(as.at[k]) * to_acc(bs.at[k]));
    store(out + i, as);
  }
}
