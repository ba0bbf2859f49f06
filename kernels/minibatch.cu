// The rows of a minibatch, and casts.
#include "port.cuh"

// x_out = x, target_out = target, weights_out = weights, of the samples that order[cursor ...] names. Places of a model
// from row_counts on hold no row, and have the weight -0.
// blockDim = (columns / V, rows); gridDim = (groups of columns, groups of rows, models). The first group of columns
// brings target and weights along.
template<class S, class T, class L, int V>
__global__ void __launch_bounds__(256) gather(
    const S* x,                 // [samples, cols]?
    T* x_out,                   // [models, rows, cols]?
    const L* target,            // [samples, target_cols]?
    L* target_out,              // [models, rows, target_cols]?
    const acc<T>* weights,      // [samples]?
    const acc<T>* own_weights,  // [models, samples]? in place of weights
    acc<T>* weights_out,        // [models, rows]?
    const i64* order,           // [models, places]
    const i64* cursor,          // [1]
    const i64* row_counts,      // [models]?
    i64 samples, i64 places, i64 rows, int cols, int target_cols) {
  typedef acc<T> A;
  const int c = int(blockIdx.x * blockDim.x + threadIdx.x) * V;
  BP_ROLLED
  for (i64 r = blockIdx.y * blockDim.y + threadIdx.y; r < rows; r += gridDim.y * blockDim.y) {
    const i64 place = cursor[0] + r, to = blockIdx.z * rows + r;
    const i64 from = order[blockIdx.z * places + (place < places ? place : places - 1)];
    if (x && c < cols) {
      const Vec<S, V> in = load<V>(x + from * cols + c);
      Vec<T, V> out;
      for (int k = 0; k < V; k++) out.at[k] = from_acc<T>(A(to_acc(in.at[k])));
      store(x_out + to * cols + c, out);
    }
    if (blockIdx.x == 0) {
      for (int k = threadIdx.x; k < target_cols; k += blockDim.x)
        target_out[to * target_cols + k] = target[from * target_cols + k];
      if (weights_out && threadIdx.x == 0)
        weights_out[to] = row_counts && place >= row_counts[blockIdx.z] ? -A(0)
            : own_weights ? own_weights[blockIdx.z * samples + from] : weights[from];
    }
  }
}

// A step is counted: cursor += rows, position += 1, and, but of models whose `counted` is 0, random += 1 of each layer and
// step += 1.
__global__ void advance(
    i64* cursor,            // [1]?
    i64* position,          // [1]?
    u64* random,            // [randoms]?
    double* step,           // [count]?
    const double* counted,  // [count]?
    i64 random_stride, i64 step_stride, i64 rows, i64 randoms, i64 count) {
  const i64 first = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (first == 0 && cursor) *cursor += rows;
  if (first == 0 && position) *position += 1;
  BP_ROLLED
  for (i64 i = first; i < randoms || i < count; i += i64(gridDim.x) * blockDim.x) {
    if (random && i < randoms && !(counted && counted[i / (randoms / count)] == 0)) random[i * random_stride] += 1;
    if (step && i < count && !(counted && counted[i] == 0)) step[i * step_stride] += 1;
  }
}

// destination = source, in another type
template<class S, class T, int V>
__global__ void __launch_bounds__(256) copy(
    const S* source,  // [n]
    T* destination,   // [n]
    i64 n) {
  const i64 step = i64(gridDim.x) * blockDim.x * V;
  BP_ROLLED
  for (i64 i = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * V; i < n; i += step) {
    const Vec<S, V> in = load<V>(source + i);
    Vec<T, V> out;
    for (int k = 0; k < V; k++) out.at[k] = from_acc<T>(acc<T>(to_acc(in.at[k])));
    store(destination + i, out);
  }
}
