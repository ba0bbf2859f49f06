// Sums over the rows of (models, rows, cols). blockDim = (columns / V, rows), the rows a power of two, at most 256
// threads; gridDim = (groups of columns, groups of rows, models).
#include "port.cuh"

// The first of the V columns of this thread.
template<int V> BP_DEV int column() { return int(blockIdx.x * blockDim.x + threadIdx.x) * V; }

struct AlongY {  // over the rows of each column; those of a block are added up as a tree
  const u32 block = blockIdx.y, blocks = gridDim.y, line = blockIdx.z * gridDim.x + blockIdx.x;
  const u32 first = threadIdx.y, step = blockDim.y;
  template<int W, class A> BP_DEV Vec<A, W> add(const Vec<A, W>& sum) const {
    __shared__ Vec<A, W> of[256];
    const int t = thread();
    __syncthreads();  // the last call may still be reading
    of[t] = sum;
    for (int half = blockDim.y / 2; half; half /= 2) {
      __syncthreads();
      if (int(threadIdx.y) < half)
        for (int k = 0; k < W; k++) of[t].at[k] += of[t + half * int(blockDim.x)].at[k];
    }
    return of[t];
  }
};
