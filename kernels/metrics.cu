// Metrics, which no gradient is made of.
#include "columns.cuh"

// sums += the sum over the rows of w |y - t| and of w (y - t)^2, for each output
template<class T>
__global__ void __launch_bounds__(256) residual_sums(
    const T* y,             // [models, rows, cols]
    const acc<T>* target,   // [models, rows, cols]
    const acc<T>* weights,  // [models, rows]?
    double* sums,           // [models, 2, cols]
    double* partial,        // [models, gridDim.y, cols, 2]
    u32* tickets,           // [models, gridDim.x]
    i64 rows, int cols) {
  typedef acc<T> A;
  const int c = column<1>();
  Vec<double, 2> sum = filled<2>(0.0);
  if (c < cols)
    for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
      const i64 row = blockIdx.z * rows + r, i = row * cols + c;
      const A residual = to_acc(y[i]) - target[i], w = weights ? weights[row] : A(1);
      sum.at[0] += double(fabs(residual) * w);
      sum.at[1] += double(residual * residual * w);
    }
  if (!grid_sum<AlongY>(sum, partial, tickets, c * 2, cols * 2)) return;
  double* const to = sums + i64(blockIdx.z) * 2 * cols + c;
  to[0] += sum.at[0];
  to[cols] += sum.at[1];
}

// out = the sum of a^2
template<class T, int V>
__global__ void __launch_bounds__(256) sum_of_squares(
    const T* a,       // [models, n]
    double* out,      // [models]
    double* partial,  // [models, gridDim.x]
    u32* tickets,     // [models]
    i64 n) {
  const i64 step = i64(gridDim.x) * threads() * V;
  Vec<double, 1> sum = filled<1>(0.0);  // a square may be too large for float32 where its root is not
  for (i64 i = (i64(blockIdx.x) * threads() + thread()) * V; i < n; i += step) {
    const Vec<T, V> as = load<V>(a + blockIdx.z * n + i);
    for (int k = 0; k < V; k++) {
      const double wide = double(to_acc(as.at[k]));
      sum.at[0] += wide * wide;
    }
  }
  if (grid_sum<AlongX>(sum, partial, tickets)) out[blockIdx.z] = sum.at[0];
}
