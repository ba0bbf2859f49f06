// softmax, which mixes the units of a row, and the product with its Jacobian.
#include "rows.cuh"

// y = e^(v - max v) / sum of e^(v - max v), v = z + b
template<class T>
__global__ void __launch_bounds__(256) softmax(
    T* z,             // [models, rows, cols], becomes z + b where store_z is 1
    const acc<T>* b,  // [models, cols]?
    T* y,             // [models, rows, cols], may be z
    i64 b_step, i64 rows, int cols, int store_z) {
  typedef acc<T> A;
  const A* const bias = b ? b + blockIdx.z * b_step : b;
  for (Rows row(rows, cols); row.more(); row.next()) {
    T* const zr = z + row.start();
    A top = Maximum::identity<A>(), sum = A(0);
    for (int c = row.lane; c < row.cols; c += row.lanes)
      top = Maximum::of(top, to_acc(zr[c]) + (bias ? bias[c] : A(0)));
    top = lane_reduce<Maximum>(top, row.lanes);
    for (int c = row.lane; c < row.cols; c += row.lanes) sum += exp(to_acc(zr[c]) + (bias ? bias[c] : A(0)) - top);
    sum = lane_reduce<Sum>(sum, row.lanes);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const A v = to_acc(zr[c]) + (bias ? bias[c] : A(0));
      if (store_z) zr[c] = from_acc<T>(v);
      y[row.start() + c] = from_acc<T>(exp(v - top) / sum);
    }
  }
}

// grad_z = y . (grad_y - <grad_y, y>), which is grad_y times diag(y) - y y^T
template<class T>
__global__ void __launch_bounds__(256) softmax_gradient(
    const T* grad_y,  // [models, rows, cols]
    const T* y,       // [models, rows, cols]
    T* grad_z,        // [models, rows, cols], may be grad_y
    i64 rows, int cols) {
  typedef acc<T> A;
  for (Rows row(rows, cols); row.more(); row.next()) {
    A dot = A(0);
    for (int c = row.lane; c < row.cols; c += row.lanes)
      dot += to_acc(grad_y[row.start() + c]) * to_acc(y[row.start() + c]);
    dot = lane_reduce<Sum>(dot, row.lanes);
    for (int c = row.lane; c < row.cols; c += row.lanes) {
      const i64 i = row.start() + c;
      grad_z[i] = from_acc<T>(to_acc(y[i]) * (to_acc(grad_y[i]) - dot));
    }
  }
}
