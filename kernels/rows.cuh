// Kernels that need a whole row at once. blockDim = (lanes, rows): a power of two of lanes, up to 32, shares a row, and
// the block has 32 k threads; gridDim = (groups of rows, 1, models).
#include "port.cuh"

// The rows of this thread, one after the other. All threads of a block go through the loop equally often, because they
// take part in reductions; one beyond the last row stays at the last row, with no columns to do.
struct Rows {
  const i64 rows;
  const int all_cols, lane, lanes;
  i64 first;  // of the block
  i64 at;     // the row of this thread
  int cols;   // how many columns it has to do: all of them, or none

  BP_DEV Rows(i64 rows, int cols)
      : rows(rows), all_cols(cols), lane(threadIdx.x), lanes(blockDim.x), first(i64(blockIdx.x) * blockDim.y) {
    place();
  }
  BP_DEV bool more() const { return first < rows; }
  BP_DEV void next() {
    first += i64(gridDim.x) * blockDim.y;
    place();
  }
  BP_DEV bool live() const { return cols != 0; }
  BP_DEV i64 index() const { return blockIdx.z * rows + at; }  // among the rows of all models
  BP_DEV i64 start() const { return index() * all_cols; }

 private:
  BP_DEV void place() {
    at = first + threadIdx.y;
    cols = at < rows ? all_cols : 0;
    if (at >= rows) at = rows - 1;
  }
};
