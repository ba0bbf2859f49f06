// Sums over the rows of (models, rows, cols). blockDim = (columns / V, rows), the rows a power of two, at most 256
// threads; gridDim = (groups of columns, groups of rows, models).
#include "port.cuh"

// The first of the V columns of this thread.
template<int V> BP_DEV int column() { return int(blockIdx.x * blockDim.x + threadIdx.x) * V; }

// A thread of the first row of its block gets the sum over the rows of the block, added up as a tree.
template<int V, class A> BP_DEV Vec<A, V> add_rows(const Vec<A, V>& sum) {
  __shared__ Vec<A, V> of[256];
  const int t = thread();
  __syncthreads();  // the last call may still be reading
  of[t] = sum;
  for (int half = blockDim.y / 2; half; half /= 2) {
    __syncthreads();
    if (int(threadIdx.y) < half)
      for (int k = 0; k < V; k++) of[t].at[k] += of[t + half * int(blockDim.x)].at[k];
  }
  return of[t];
}

// out[column] = the sum over all rows, given each thread's sum over its own. A group of rows writes its sums to part,
// (models, gridDim.y, cols · W) where a column has W numbers, and the last group of a column adds these up.
// Returns whether this thread holds the sum of its columns.
template<int W, class A> BP_DEV bool add_groups(Vec<A, W>& sum, A* part, u32* tickets, bool inside, int at, int width) {
  sum = add_rows(sum);
  if (gridDim.y > 1) {
    A* const parts = part + i64(blockIdx.z) * gridDim.y * width + at;
    if (threadIdx.y == 0 && inside) store(parts + i64(blockIdx.y) * width, sum);
    if (!last_block(tickets + i64(blockIdx.z) * gridDim.x + blockIdx.x, gridDim.y)) return false;
    sum = filled<W>(A(0));
    if (inside)
      for (u32 group = threadIdx.y; group < gridDim.y; group += blockDim.y)
        for (int k = 0; k < W; k++) sum.at[k] += static_cast<const volatile A*>(parts)[i64(group) * width + k];
    sum = add_rows(sum);
  }
  return threadIdx.y == 0 && inside;
}
