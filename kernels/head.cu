// The head of a network: its last layer, the loss, and the way back to the layer below, in one launch.
//
// z = y@W + b of a few outputs, e and grad_z, their sums, and grad_z@W^T . f'(s), whose sum over the rows is the grad_b of
// the layer below. blockDim = (32, warps); gridDim = (groups of rows, 1, models). A warp has some rows at a time, and of
// the units below a lane has V side by side out of every 32 V. A block keeps W transposed in its own memory, and there
// the sums over its rows: each warp adds to its own, those of a block are added up in the order of its warps, and those
// of all blocks in the order of the blocks, by the last of them.
#include "block_memory.cuh"
#include "losses.cuh"

enum { OF_FORMULA = 0, OF_SOFTMAX = 1, OF_SIGMOID = 2, OF_FOCAL = 3 };  // how the loss comes from z: K

// How many rows a warp has at a time, of O outputs each, a power of two: as many as its registers hold.
template<class T, int O> struct RowsOf { enum { count = O > 16 ? 1 : O > 8 || sizeof(T) == 2 ? 2 : 4 }; };
template<int O> struct RowsOf<double, O> { enum { count = O < 4 || O > 8 ? 1 : 2 }; };

// The sums over all lanes of S numbers that each of them has, S a power of two up to 32: lane l gets that of the number
// l % S. LEFT are still to be exchanged: of those, a lane keeps one half and gives the other to one that keeps it.
template<int S, int LEFT = S, class A> BP_DEV A sum_over_lanes(A (&of)[S], int lane) {
  if constexpr (LEFT > 1) {
    constexpr int half = LEFT / 2;
    const bool upper = lane & half;
    BP_UNROLLED
    for (int k = 0; k < half; k++) {
      const A kept = upper ? of[k + half] : of[k], given = upper ? of[k] : of[k + half];
      of[k] = kept + __shfl_xor_sync(0xffffffffu, given, half);
    }
    return sum_over_lanes<S, half>(of, lane);
  } else {
    A sum = of[0];
    BP_UNROLLED
    for (int offset = S; offset < 32; offset *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    return sum;
  }
}

// e of a row and give(c, slope) of each of its outputs, from all lanes of the row.
template<int K, class A, class L, class E, class V, class Give>
BP_DEV A head_loss(
    int lane, int lanes, int cols, const Target<L>& target, const double* numbers, int smoothed_over,
    Answer<A>& answer, V v_of, Give give) {
  const Smoothing<A> smooth{A(numbers[0]), smoothed_over};
  if constexpr (K == OF_SOFTMAX)
    return softmax_loss(
        lane, lanes, cols, target, smooth, answer, v_of, [&](int c, A p, A t) { give(c, p - t); });
  else if constexpr (K == OF_SIGMOID)
    return sigmoid_row_loss(lane, lanes, cols, target, answer, v_of, give);
  else if constexpr (K == OF_FOCAL)
    return focal_loss(lane, lanes, cols, target, Focal<A>{A(numbers[1])}, answer, true, v_of, give);
  else
    return formula_loss(
        lane, lanes, cols, target, smooth, answer, typename E::template of<A>(numbers + 1), v_of, give);
}

// z = y@W + b, grad_z = factor de/dz, total += w e, grad_bias = sum of grad_z, grad_below = grad_z@W^T . f'(s), and
// grad_bias_below = its sum
template<class T, class E, class L, class F, int K, int O, int V>
__global__ void __launch_bounds__(256, 2) head(
    const T* y,               // [models, rows, units]
    const T* w,               // [models, units, cols]
    const acc<T>* b,          // [models, cols]?
    const L* target,          // [models, rows, target_cols], 1 for labels
    const acc<T>* weights,    // [models, rows]?
    const double* numbers,    // [models, count] label smoothing, and those of E
    const double* scales,     // [models]?
    const T* s,               // [models, rows, units]? null where f' is 1
    T* grad_z,                // [models, rows, places], a row's are its first
    acc<T>* grad_bias,        // [models, cols]?
    T* grad_below,            // [models, rows, units]?
    acc<T>* grad_bias_below,  // [models, units]? null where there is no grad_below
    double* total,            // [models, 3]
    acc<T>* partial,          // [models, gridDim.x, sums]
    double* loss_partial,     // [models, gridDim.x, 2]
    u32* tickets,             // [models]
    i64 w_step, i64 b_step, i64 scales_step, i64 grad_bias_step, i64 grad_bias_below_step, i64 rows, int units,
    int cols, int places, int pitch, int sums, int target_cols, int count, acc<T> scale, acc<T> share, int accuracy) {
  typedef acc<T> A;
  enum { R = RowsOf<T, O>::count, S = R * O, W = 16 / sizeof(A) < V ? 16 / sizeof(A) : V, BATCH = 64 / sizeof(A) };
  constexpr bool narrow = sizeof(A) == 4;  // whether registers hold a warp's grad_z while f' is worked out
  const int lane = threadIdx.x, warp = threadIdx.y, warps = blockDim.y;
  A* const sums_of_block = static_cast<A*>(block_memory());  // [warps, sums]: of grad_below's columns, then of grad_z's
  A* const sums_of_warp = sums_of_block + warp * sums;
  T* const transposed = reinterpret_cast<T*>(sums_of_block + warps * sums);  // [cols, pitch]
  const T* const weight = w + blockIdx.z * w_step;
  for (int i = thread(); i < units * cols; i += threads()) transposed[i % cols * pitch + i / cols] = weight[i];
  for (int i = thread(); i < warps * sums; i += threads()) sums_of_block[i] = A(0);
  __syncthreads();

  const int row = lane / O % R, c = lane % O, below = grad_bias_below ? units : 0;  // of lane's output; some have one
  const double* const own = numbers + i64(blockIdx.z) * count;
  const A bias = b && c < cols ? b[blockIdx.z * b_step + c] : A(0);
  const A factor = factor_of(scale, scales, scales_step) * share;
  Vec<double, 2> loss = filled<2>(0.0);  // of the rows of a lane, and how many are right
  A grad_sum = A(0);
  BP_ROLLED
  for (i64 first = (i64(blockIdx.x) * warps + warp) * R; first < rows; first += i64(gridDim.x) * warps * R) {
    i64 at[R];  // among the rows of all models; one beyond the last stays there, and leaves nothing
    BP_UNROLLED
    for (int r = 0; r < R; r++) at[r] = blockIdx.z * rows + (first + r < rows ? first + r : rows - 1);

    A of[S];
    BP_UNROLLED
    for (int i = 0; i < S; i++) of[i] = A(0);
    for (int n = lane * V; n < units; n += 32 * V) {
      Vec<T, V> ys[R];
      BP_UNROLLED
      for (int r = 0; r < R; r++) ys[r] = load<V>(y + at[r] * units + n);
      BP_UNROLLED
      for (int j = 0; j < O; j++) {
        if (j >= cols) break;
        const Vec<T, V> ws = load<V>(transposed + j * pitch + n);
        BP_UNROLLED
        for (int r = 0; r < R; r++)
          for (int k = 0; k < V; k++) of[r * O + j] += to_acc(ys[r].at[k]) * to_acc(ws.at[k]);
      }
    }
    const A z = sum_over_lanes(of, lane) + bias;

    const bool live = first + row < rows, gives = live && c < cols && lane < S;
    const i64 index = blockIdx.z * rows + (live ? first + row : rows - 1);
    const Target<L> target_of(target + index * target_cols);
    const bool bad = target_of.bad(cols);
    const A weight_of = weights ? weights[index] : A(1);
    Answer<A> answer(accuracy, K == OF_FORMULA ? A(0.5) : A(0));
    A grad = A(0);
    const A e = weight_of * share * head_loss<K, A, L, E>(
        c, O, cols, target_of, own, cols, answer, [&](int) { return z; },
        [&](int, A slope) { grad = bad ? A(0) : factor * weight_of * slope; });
    const bool right = answer.is_right(O) && !bad && is_row(weight_of);
    if (gives && c == 0) loss.at[0] += bad ? not_a_number<double>() : double(e), loss.at[1] += right;
    const T rounded = from_acc<T>(grad);
    grad = c < cols ? A(to_acc(rounded)) : A(0);
    if (gives) grad_z[index * places + c] = rounded, grad_sum += grad;
    if (!grad_below) continue;

    BP_UNROLLED
    for (int i = 0; i < S; i++)
      if (narrow) of[i] = __shfl_sync(0xffffffffu, grad, i);
    BP_ROLLED
    for (int from = lane * V; from < units + lane * V; from += 32 * V) {  // of all lanes equally often
      const int n = from < units ? from : 0;
      Vec<T, V> at_s[R];
      BP_UNROLLED
      for (int r = 0; r < R; r++)
        if (s) at_s[r] = load<V>(s + at[r] * units + n);
      A back[R][V];
      BP_UNROLLED
      for (int r = 0; r < R; r++)
        for (int k = 0; k < V; k++) back[r][k] = A(0);
      BP_UNROLLED
      for (int j = 0; j < O; j++) {
        if (j >= cols) break;
        const Vec<T, V> ws = load<V>(transposed + j * pitch + n);
        BP_UNROLLED
        for (int r = 0; r < R; r++) {
          const A g = narrow ? of[r * O + j] : __shfl_sync(0xffffffffu, grad, r * O + j);
          for (int k = 0; k < V; k++) back[r][k] += g * to_acc(ws.at[k]);
        }
      }
      if (from >= units) break;
      Vec<A, V> column = filled<V>(A(0));
      BP_UNROLLED
      for (int r = 0; r < R; r++) {
        if (first + r >= rows) break;
        Vec<T, V> out;
        for (int k = 0; k < V && s; k++) back[r][k] *= F::slope(A(to_acc(at_s[r].at[k])));
        for (int k = 0; k < V; k++) out.at[k] = from_acc<T>(back[r][k]), column.at[k] += back[r][k];
        store(grad_below + at[r] * units + n, out);
      }
      if (below)
        for (int part = 0; part < V; part += W) {
          Vec<A, W> sum = load<W>(sums_of_warp + n + part);
          for (int k = 0; k < W; k++) sum.at[k] += column.at[part + k];
          store(sums_of_warp + n + part, sum);
        }
    }
  }
  for (int offset = O; offset < S; offset *= 2) grad_sum += __shfl_xor_sync(0xffffffffu, grad_sum, offset);
  if (lane < O && c < cols) sums_of_warp[below + c] = grad_sum;
  __syncthreads();

  // the sums of a block, then of all of them
  const AlongX along;
  const auto put = [&](int i, A sum) {
    if (i < below) grad_bias_below[blockIdx.z * grad_bias_below_step + i] = sum;
    else if (grad_bias) grad_bias[blockIdx.z * grad_bias_step + i - below] = sum;
  };
  A* const partials = partial + i64(blockIdx.z) * gridDim.x * sums;
  double* const loss_partials = loss_partial + i64(blockIdx.z) * gridDim.x * 2;
  const bool alone = gridDim.x == 1;
  for (int i = thread(); i < below + cols; i += threads()) {
    A sum = A(0);
    for (int from = 0; from < warps; from++) sum += sums_of_block[from * sums + i];
    if (alone) put(i, sum);
    else partials[i64(blockIdx.x) * sums + i] = sum;
  }
  loss = along.add(loss);
  if (!alone) {
    if (thread() == 0) store(loss_partials + blockIdx.x * 2, loss);
    if (!last_block(tickets + blockIdx.z, gridDim.x)) return;
    for (int i = thread(); i < below + cols; i += threads()) {
      A sum = A(0);
      for (int block = 0; block < int(gridDim.x); block += BATCH) {  // so many loads are on their way at once
        A left[BATCH];
        BP_UNROLLED
        for (int k = 0; k < BATCH; k++)
          left[k] = block + k < int(gridDim.x)
              ? static_cast<const volatile A*>(partials)[i64(block + k) * sums + i] : A(0);
        BP_UNROLLED
        for (int k = 0; k < BATCH; k++) sum += left[k];
      }
      put(i, sum);
    }
    loss = filled<2>(0.0);
    for (int block = thread(); block < int(gridDim.x); block += threads())
      for (int k = 0; k < 2; k++) loss.at[k] += static_cast<const volatile double*>(loss_partials)[block * 2 + k];
    loss = along.add(loss);
  }
  if (thread() != 0) return;
  total[blockIdx.z * 3 + LOSS] += loss.at[0], total[blockIdx.z * 3 + CORRECT] += loss.at[1];
}
