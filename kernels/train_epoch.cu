// Epochs of small networks in one launch: a network a block, blockDim = 256, gridDim = (1, 1, models).
//
// A block keeps in its own memory the parameters, their gradients, and the activations of some rows of a minibatch, a
// micro-batch; moments and data stay outside. Sums over a minibatch go on from one micro-batch to the next, row by row,
// so that the size of a micro-batch changes nothing but the order in which the loss is added up.
//
// `places` has the offsets of each layer's arrays in that memory; cuda/ops/train_epoch.py lays it out.
#include "block_memory.cuh"
#include "losses.cuh"
#include "optimizers.cuh"

enum { OF_Y = 0, OF_SOFTMAX = 1, OF_SIGMOID = 2 };  // what the loss takes: y, or z to make y of
enum { BLOCK = 4 };  // a thread computes so many outputs at once, and reads the operand they share once

// How many blocks should fit on a multiprocessor, as far as registers go.
template<class A> constexpr int blocks_per_sm = 3;
template<> constexpr int blocks_per_sm<double> = 2;

// A row of activations takes an odd number of places, so that rows begin in different banks.
BP_DEV int pitch(int cols) { return cols | 1; }

// The offsets of a layer's arrays, in elements: W, b (-1: none), its rows of x, of y, and of what f' is written in.
// y becomes grad_z.
struct Layer {
  int inputs, units, weight, bias, x, y, s, f;
  BP_DEV explicit Layer(const int* p)
      : inputs(p[0]), units(p[1]), weight(p[2]), bias(p[3]), x(p[4]), y(p[5]), s(p[6]), f(p[7]) {}
};

// y = f(x@W + b)
template<class N, class A> BP_DEV void forward(A* memory, const Layer& at, int rows) {
  const int from = pitch(at.inputs), to = pitch(at.units), items = (rows + BLOCK - 1) / BLOCK * at.units;
  for (int item = thread(); item < items; item += threads()) {
    const int first = item / at.units * BLOCK, j = item % at.units;
    const A* w = memory + at.weight + j;
    const A* x[BLOCK];
    A z[BLOCK];
    for (int k = 0; k < BLOCK; k++) {
      x[k] = memory + at.x + (first + k < rows ? first + k : rows - 1) * from;
      z[k] = A(0);
    }
    for (int i = 0; i < at.inputs; i++, w += at.units) {
      const A wij = *w;
      for (int k = 0; k < BLOCK; k++) z[k] += x[k][i] * wij;
    }
    const A b = at.bias < 0 ? A(0) : memory[at.bias + j];
    for (int k = 0; k < BLOCK; k++) {
      if (first + k >= rows) break;
      const int place = (first + k) * to + j;
      const A v = z[k] + b;
      if (at.s != at.y) memory[at.s + place] = v;
      memory[at.y + place] = N::value(at.f, v);
    }
  }
}

// grad_W += x^T@grad_z, grad_b += the sum of grad_z over the rows; g lies as W and b do
template<class A> BP_DEV void weight_gradient(const A* memory, A* g, const Layer& at, int rows) {
  const int from = pitch(at.inputs), to = pitch(at.units), items = (at.inputs + BLOCK - 1) / BLOCK * at.units;
  for (int item = thread(); item < items; item += threads()) {
    const int first = item / at.units * BLOCK, j = item % at.units;
    int i[BLOCK];
    A sum[BLOCK];
    for (int k = 0; k < BLOCK; k++) {
      i[k] = first + k < at.inputs ? first + k : at.inputs - 1;
      sum[k] = g[at.weight + i[k] * at.units + j];
    }
    for (int r = 0; r < rows; r++) {
      const A grad_z = memory[at.y + r * to + j];
      for (int k = 0; k < BLOCK; k++) sum[k] += memory[at.x + r * from + i[k]] * grad_z;
    }
    for (int k = 0; k < BLOCK; k++)
      if (first + k < at.inputs) g[at.weight + i[k] * at.units + j] = sum[k];
  }
  if (at.bias < 0) return;
  for (int j = thread(); j < at.units; j += threads()) {
    A sum = g[at.bias + j];
    for (int r = 0; r < rows; r++) sum += memory[at.y + r * to + j];
    g[at.bias + j] = sum;
  }
}

// grad_z of the layer below = grad_z@W^T . f'(s), in the place of its y. Each thread begins at a unit of its own: rows
// of W may begin in one bank.
template<class N, class A> BP_DEV void input_gradient(A* memory, const Layer& at, const Layer& below, int rows) {
  const int from = pitch(at.units), to = pitch(at.inputs), items = (rows + BLOCK - 1) / BLOCK * at.inputs;
  for (int item = thread(); item < items; item += threads()) {
    const int first = item / at.inputs * BLOCK, i = item % at.inputs;
    const A* const w = memory + at.weight + i * at.units;
    const A* grad_z[BLOCK];
    A sum[BLOCK];
    for (int k = 0; k < BLOCK; k++) {
      grad_z[k] = memory + at.y + (first + k < rows ? first + k : rows - 1) * from;
      sum[k] = A(0);
    }
    int j = i % at.units;
    for (int count = 0; count < at.units; count++) {
      const A wij = w[j];
      for (int k = 0; k < BLOCK; k++) sum[k] += grad_z[k][j] * wij;
      if (++j == at.units) j = 0;
    }
    for (int k = 0; k < BLOCK; k++) {
      if (first + k >= rows) break;
      const int place = (first + k) * to + i;
      memory[below.y + place] = sum[k] * N::slope(below.f, memory[below.s + place]);
    }
  }
}

// The loss of the rows of a micro-batch, summed by each thread; grad_z of the last layer takes the place of its y.
template<class E, class L, class A> struct BlockLoss {
  const L* target;
  const int target_cols, lanes, accuracy, takes;
  const Smoothing<A> smooth;
  const typename E::template of<A> of;
  double loss, correct;
  BP_DEV BlockLoss(
      const L* target, int target_cols, int lanes, int accuracy, int takes, const double* numbers, int outputs)
      : target(target), target_cols(target_cols), lanes(lanes), accuracy(accuracy), takes(takes),
        smooth(A(numbers[0]), outputs), of(numbers + 1), loss(0), correct(0) {}

  template<class N, class Samples>
  BP_DEV void add(A* memory, const Layer& at, int rows, const Samples& sample_of, A scale, A share) {
    for (int first = 0; first < rows; first += threads() / lanes) {  // all lanes of a warp meet in reductions
      const int lane = thread() % lanes, r = first + thread() / lanes, row = r < rows ? r : rows - 1;
      const int cols = r < rows ? at.units : 0, start = row * pitch(at.units);
      const Target<L> target_of(target + sample_of(row) * target_cols);
      const bool bad = target_of.bad(at.units);
      Answer<A> answer(accuracy, takes == OF_Y ? A(0.5) : A(0));
      A* const y = memory + at.y + start;
      A e = A(0);
      if (takes == OF_SOFTMAX) {
        e = softmax_loss(
            lane, lanes, cols, target_of, smooth, answer, [&](int c) { return y[c]; },
            [&](int c, A p, A t) { y[c] = bad ? A(0) : scale * (p - t); });
      } else {
        for (int c = lane; c < cols; c += lanes) {
          const A yc = y[c], plain = A(target_of.of(c)), t = smooth.of(plain);
          if (takes == OF_SIGMOID) {
            e += sigmoid_loss(yc, t);
            y[c] = scale * (sigmoid(yc) - t);
          } else {
            e += of.value(yc, t);
            y[c] = bad ? A(0) : scale * share * of.slope(yc, t) * N::slope(at.f, memory[at.s + start + c]);
          }
          answer.add(yc, plain, c);
        }
        e = lane_reduce<Sum>(e, lanes) * share;
      }
      const bool right = answer.is_right(lanes) && !bad;
      if (r < rows && lane == 0) loss += bad ? not_a_number<double>() : double(e), correct += right;
    }
  }
};

// The rows of an epoch from cursor on, in minibatches of `batch` and one of what is left: forward, loss, backward,
// update. grad_W and grad_b of the last minibatch are left in g, but where the rate of a group is 0.
template<class A, class S, class L, class N, class E, class U>
__global__ void __launch_bounds__(256, blocks_per_sm<A>) train_epoch(
    const S* x,             // [samples, inputs]
    const L* target,        // [samples, target_cols], 1 for labels
    const i64* order,       // [models, rows]
    const i64* cursor,      // [1]
    const int* places,      // [layers, 8]
    A* w,                   // [models, n]
    A* g,                   // [models, n]
    A* moments,             // [count, models, n]?
    double* hyper,          // [models, settings]
    const A* groups,        // [3, blocks]? the factors of rate, decay and penalties
    const double* numbers,  // [models, loss_numbers] of the loss: label smoothing, and those of E
    double* total,          // [models, 3]
    i64 samples, i64 rows, i64 batch, int inputs, int target_cols, int layers, int n, int settings, int count,
    int blocks, int loss_numbers, int micro, int lanes, A scale, A tail_scale, A share, int accuracy, int takes) {
  A* const memory = static_cast<A*>(block_memory());
  A* const ws = memory;
  A* const gs = memory + n;
  const i64 mine = i64(blockIdx.z) * n;
  double* const h = hyper + i64(blockIdx.z) * settings;
  __shared__ typename U::template of<A> rule;
  const i64 apart = i64(gridDim.z) * n;  // from one moment to the next
  const Layer bottom(places), top(places + (layers - 1) * 8);
  BlockLoss<E, L, A> block_loss(
      target, target_cols, lanes, accuracy, takes, numbers + i64(blockIdx.z) * loss_numbers, top.units);
  for (int i = thread(); i < n; i += threads()) ws[i] = w[mine + i], gs[i] = A(0);
  const i64 start = cursor[0];
  i64 steps = 0;
  for (i64 done = 0; done < rows; done += batch) {
    const i64 size = rows - done < batch ? rows - done : batch;
    const bool last = done + size == rows;
    steps++;
    if (thread() == 0) rule.template prepare<A>(h[0] + double(steps), h + 1);
    for (i64 begun = 0; begun < size; begun += micro) {
      const int some = int(size - begun < micro ? size - begun : micro);
      const auto sample_of = [&](int r) {
        const i64 place = start + done + begun + r;
        return order[blockIdx.z * rows + (place < rows ? place : rows - 1)];
      };
      for (int item = thread(); item < some * inputs; item += threads()) {
        const int r = item / inputs, c = item % inputs;
        memory[bottom.x + r * pitch(inputs) + c] = A(to_acc(x[sample_of(r) * inputs + c]));
      }
      __syncthreads();
      for (int l = 0; l < layers; l++) {
        forward<N>(memory, Layer(places + l * 8), some);
        __syncthreads();
      }
      block_loss.template add<N>(memory, top, some, sample_of, size == batch ? scale : tail_scale, share);
      __syncthreads();
      for (int l = layers - 1; l >= 0; l--) {
        const Layer at(places + l * 8);
        weight_gradient(memory, gs, at, some);
        __syncthreads();
        if (l == 0) break;
        input_gradient<N>(memory, at, Layer(places + (l - 1) * 8), some);
        __syncthreads();
      }
    }
    BP_ROLLED
    for (int i = thread(); i < n; i += threads()) {
      const A grad = gs[i];
      const Group<A> group(groups, blocks, i);
      if (group.rate != A(0)) {
        const A change = step_of<U>(rule, ws[i], grad, group.penalty, moments, mine + i, apart);
        ws[i] = group.template moved<U>(rule, ws[i], change);
        if (last) g[mine + i] = grad;
      }
      gs[i] = A(0);
    }
    __syncthreads();  // before thread 0 prepares the next step
  }
  for (int i = thread(); i < n; i += threads()) w[mine + i] = ws[i];
  const double loss = block_reduce<Sum>(block_loss.loss), correct = block_reduce<Sum>(block_loss.correct);
  if (thread() != 0) return;
  h[0] += double(steps);
  total[i64(blockIdx.z) * 3 + LOSS] += loss, total[i64(blockIdx.z) * 3 + CORRECT] += correct;
}
