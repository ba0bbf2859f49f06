// What a step does besides the optimizer's update: gradients that are clipped, weights that are averaged or bounded.
// Where `counted`, the gradient factor, is 0, nothing changes.
#include "columns.cuh"

// factor = counted min(1, limit/(counted sqrt(squares) + 1e-6)); NaN where squares are not finite and counted is not 0
__global__ void clip_factor(
    const double* squares,  // [count]
    const double* limit,    // [count]
    const double* counted,  // [count]?
    double* factor,         // [count]
    i64 count) {
  BP_ROLLED
  for (i64 m = i64(blockIdx.x) * blockDim.x + threadIdx.x; m < count; m += i64(gridDim.x) * blockDim.x) {
    const double counts = counted ? counted[m] : 1, norm = counts * sqrt(squares[m]), ratio = limit[m] / (norm + 1e-6);
    factor[m] = counts == 0 ? 0 : counts * (ratio < 1 ? ratio : 1) + (norm - norm);
  }
}

// destination += add (source - pull destination)
template<class A, int V>
__global__ void __launch_bounds__(256) blend(
    const A* source,        // [models, n]
    const double* numbers,  // [models, 2] add, pull
    const double* counted,  // [models]?
    A* destination,         // [models, n]
    i64 n) {
  if (counted && counted[blockIdx.z] == 0) return;
  const A add = A(numbers[blockIdx.z * 2]), pull = A(numbers[blockIdx.z * 2 + 1]);
  const i64 start = blockIdx.z * n, step = i64(gridDim.x) * threads() * V;
  BP_ROLLED
  for (i64 i = (i64(blockIdx.x) * threads() + thread()) * V; i < n; i += step) {
    const Vec<A, V> from = load<V>(source + start + i);
    Vec<A, V> to = load<V>(destination + start + i);
    for (int k = 0; k < V; k++) to.at[k] += add * (from.at[k] - pull * to.at[k]);
    store(destination + start + i, to);
  }
}

// w = w min(1, limit/|w|) of each column, the weights that lead to a unit, and its copy in 16 bits. A column whose
// squares overflow becomes NaN. blockDim = (columns, rows); gridDim = (groups of columns, 1, models).
template<class T>
__global__ void __launch_bounds__(256) limit_norms(
    acc<T>* weight,         // [models, rows, cols]
    const double* limit,    // [models]
    const double* counted,  // [models]?
    T* half_weight,         // [models, rows, cols]?
    i64 weight_step, i64 half_weight_step, i64 rows, int cols) {
  typedef acc<T> A;
  if (counted && counted[blockIdx.z] == 0) return;
  __shared__ A factors[256];
  const int c = column<1>();
  A* const ws = weight + blockIdx.z * weight_step + c;
  Vec<double, 1> sum = filled<1>(0.0);
  if (c < cols)
    for (i64 r = threadIdx.y; r < rows; r += blockDim.y) {
      const double wide = double(ws[r * cols]);
      sum.at[0] += wide * wide;
    }
  sum = AlongY().add(sum);
  if (threadIdx.y == 0) {
    const double norm = sqrt(sum.at[0]), ratio = limit[blockIdx.z] / norm;
    factors[threadIdx.x] = A((ratio < 1 ? ratio : 1) + (norm - norm));
  }
  __syncthreads();
  const A factor = factors[threadIdx.x];
  if (c >= cols || (factor == A(1) && !half_weight)) return;
  BP_ROLLED
  for (i64 r = threadIdx.y; r < rows; r += blockDim.y) {
    const A a = ws[r * cols] * factor;
    ws[r * cols] = a;
    if (half_weight) half_weight[blockIdx.z * half_weight_step + r * cols + c] = from_acc<T>(a);
  }
}
