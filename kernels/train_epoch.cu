// Epochs of small networks in one launch, or in some: a network a block, blockDim = 256, gridDim = (1, 1, models).
//
// A block keeps in its own memory the parameters, their gradients, the moments where they fit, and the activations of
// some rows of a minibatch, a micro-batch; data stay outside. Sums over a minibatch go on from one micro-batch to the
// next, row by row, so that the size of a micro-batch changes nothing but the order in which the loss is added up. A
// launch leaves outside all that the next one begins with.
//
// `places` has the offsets of each layer's arrays in that memory; backend/block_layout.py lays it out.
#include "block_memory.cuh"
#include "losses.cuh"
#include "optimizers.cuh"

enum { OF_Y = 0, OF_SOFTMAX = 1, OF_SIGMOID = 2 };  // what the loss takes: y, or z to make y of
// A thread works out a tile of outputs at once, and reads each operand once for all that share it: TALL numbers along
// one axis, and along the other TALL, WIDE or, where so few tiles would leave most threads idle, 1. Threads beside each
// other have outputs beside each other, whose operands lie in different banks or are the same number.
enum { TALL = 4, WIDE = 2 };  // in float64 registers do not suffice for more than TALL
// So many parameters of a thread are on the way to it while it waits for the first, as registers allow.
template<class A> constexpr int at_once = sizeof(A) == 4 ? 4 : 2;

// How many blocks should fit on a multiprocessor, as far as registers go.
constexpr int blocks_per_sm = 2;

// A row of activations takes an odd number of places, so that rows begin in different banks.
BP_DEV int pitch(int cols) { return cols | 1; }

// The offsets of a layer's arrays, in elements: W, b (-1: none), its rows of x, of y, and of what f' is written in.
// y becomes grad_z.
struct Layer {
  int inputs, units, weight, bias, x, y, s, f;
  BP_DEV explicit Layer(const int* p)
      : inputs(p[0]), units(p[1]), weight(p[2]), bias(p[3]), x(p[4]), y(p[5]), s(p[6]), f(p[7]) {}
};

// How many tiles of K numbers lie along `size` numbers.
template<int K> BP_DEV int tiles(int size) { return (size + K - 1) / K; }

// Whether tiles of R x C outputs employ half the threads or more.
template<int R, int C> BP_DEV bool enough(int rows, int cols) { return tiles<R>(rows) * tiles<C>(cols) * 2 >= threads(); }

// The places of a tile along an axis, each as far from the next as there are tiles. Beyond the end stands the first one
// once more, which no other thread writes; its result is left.
template<int K> struct Tile {
  int at[K], some;
  BP_DEV Tile(int number, int size) : some(0) {
    for (int k = 0; k < K; k++) {
      const int place = number + k * tiles<K>(size);
      some += place < size;
      at[k] = place < size ? place : number;
    }
  }
};

// y = f(x@W + b)
template<int C, class N, class A> BP_DEV void forward(A* memory, const Layer& at, int rows) {
  const int from = pitch(at.inputs), to = pitch(at.units), across = tiles<C>(at.units);
  for (int item = thread(); item < tiles<TALL>(rows) * across; item += threads()) {
    const Tile<TALL> r(item / across, rows);
    const Tile<C> j(item % across, at.units);
    A z[TALL][C] = {};
    for (int i = 0; i < at.inputs; i++) {
      A w[C];
      for (int c = 0; c < C; c++) w[c] = memory[at.weight + i * at.units + j.at[c]];
      for (int k = 0; k < TALL; k++) {
        const A x = memory[at.x + r.at[k] * from + i];
        for (int c = 0; c < C; c++) z[k][c] += x * w[c];
      }
    }
    BP_UNROLLED
    for (int c = 0; c < C; c++) {
      const A b = at.bias < 0 ? A(0) : memory[at.bias + j.at[c]];
      BP_UNROLLED
      for (int k = 0; k < TALL; k++) {
        if (k >= r.some || c >= j.some) continue;
        const int place = r.at[k] * to + j.at[c];
        const A v = z[k][c] + b;
        if (at.s != at.y) memory[at.s + place] = v;
        memory[at.y + place] = N::value(at.f, v);
      }
    }
  }
}

// grad_W += x^T@grad_z, grad_b += the sum of grad_z over the rows; g lies as W and b do
template<int C, class A> BP_DEV void weight_gradient(const A* memory, A* g, const Layer& at, int rows) {
  const int from = pitch(at.inputs), to = pitch(at.units), across = tiles<C>(at.units);
  for (int item = thread(); item < tiles<TALL>(at.inputs) * across; item += threads()) {
    const Tile<TALL> i(item / across, at.inputs);
    const Tile<C> j(item % across, at.units);
    A sum[TALL][C];
    for (int k = 0; k < TALL; k++)
      for (int c = 0; c < C; c++) sum[k][c] = g[at.weight + i.at[k] * at.units + j.at[c]];
    for (int r = 0; r < rows; r++) {
      A grad_z[C];
      for (int c = 0; c < C; c++) grad_z[c] = memory[at.y + r * to + j.at[c]];
      for (int k = 0; k < TALL; k++) {
        const A x = memory[at.x + r * from + i.at[k]];
        for (int c = 0; c < C; c++) sum[k][c] += x * grad_z[c];
      }
    }
    for (int k = 0; k < TALL; k++)
      for (int c = 0; c < C; c++)
        if (k < i.some && c < j.some) g[at.weight + i.at[k] * at.units + j.at[c]] = sum[k][c];
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
template<int C, class N, class A>
BP_DEV void input_gradient(A* memory, const Layer& at, const Layer& below, int rows) {
  const int from = pitch(at.units), to = pitch(at.inputs), across = tiles<C>(at.inputs);
  for (int item = thread(); item < tiles<TALL>(rows) * across; item += threads()) {
    const Tile<TALL> r(item / across, rows);
    const Tile<C> i(item % across, at.inputs);
    A sum[TALL][C] = {};
    int j = i.at[0] % at.units;
    for (int count = 0; count < at.units; count++) {
      A w[C];
      for (int c = 0; c < C; c++) w[c] = memory[at.weight + i.at[c] * at.units + j];
      for (int k = 0; k < TALL; k++) {
        const A grad_z = memory[at.y + r.at[k] * from + j];
        for (int c = 0; c < C; c++) sum[k][c] += grad_z * w[c];
      }
      if (++j == at.units) j = 0;
    }
    BP_UNROLLED
    for (int k = 0; k < TALL; k++) {
      BP_UNROLLED
      for (int c = 0; c < C; c++) {
        if (k >= r.some || c >= i.some) continue;
        const int place = r.at[k] * to + i.at[c];
        memory[below.y + place] = sum[k][c] * N::slope(below.f, memory[below.s + place]);
      }
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

// A step of the optimizer from the gradients in g, which become 0, unless the model does not learn. `moments` lie
// `apart` from each other. In `kept`, if there is such a place, are left the gradients of what is not frozen.
template<class U, class Rule, class A>
BP_DEV void optimize(
    const Rule& rule, bool learns, A* w, A* g, A* moments, i64 apart, const A* groups, i64 blocks, int n, A* kept) {
  constexpr int AT_ONCE = at_once<A>;
  BP_ROLLED
  for (int first = thread(); first < n; first += AT_ONCE * threads()) {
    A grad[AT_ONCE], weight[AT_ONCE], moment[AT_ONCE][U::moments + 1];
    Group<A> group[AT_ONCE];
    for (int k = 0; k < AT_ONCE; k++) {
      const int place = first + k * threads(), i = place < n ? place : first;  // which no other thread writes
      grad[k] = g[i], weight[k] = w[i], group[k] = Group<A>(groups, blocks, i);
      for (int m = 0; m < U::moments; m++) moment[k][m] = moments[m * apart + i];
    }
    BP_UNROLLED
    for (int k = 0; k < AT_ONCE; k++) {
      const int i = first + k * threads();
      if (i < n) g[i] = A(0);
      if (i >= n || group[k].rate == A(0)) continue;
      if (kept) kept[i] = grad[k];
      if (!learns) continue;
      const A change = rule.step(weight[k], rule.gradient(weight[k], grad[k], group[k].penalty), moment[k]);
      w[i] = group[k].template moved<U>(rule, weight[k], change);
      for (int m = 0; m < U::moments; m++) moments[m * apart + i] = moment[k][m];
    }
  }
}

// `rows` rows of an epoch from cursor on, in minibatches of `batch` and one of what is left: forward, loss, backward,
// update. grad_W and grad_b of the last minibatch are left in g, but where the rate of a group is 0. A model that is not
// running is measured, and learns nothing.
template<class A, class S, class L, class N, class E, class U>
__global__ void __launch_bounds__(256, blocks_per_sm) train_epoch(
    const S* x,             // [samples, inputs]
    const L* target,        // [samples, target_cols], 1 for labels
    const i64* order,       // [models, length]
    const i64* cursor,      // [1]
    const int* places,      // [layers, 8]
    A* w,                   // [models, n]
    A* g,                   // [models, n]
    A* moments,             // [count, models, n]?
    double* hyper,          // [models, settings]
    const A* groups,        // [3, blocks]? the factors of rate, decay and penalties
    const double* running,  // [models]?
    const double* numbers,  // [models, loss_numbers] of the loss: label smoothing, and those of E
    double* total,          // [models, 3]
    i64 samples, i64 length, i64 rows, i64 batch, int inputs, int target_cols, int layers, int n, int settings,
    int count, int blocks, int loss_numbers, int held, int micro, int lanes, A scale, A tail_scale, A share,
    int accuracy, int takes) {
  A* const memory = static_cast<A*>(block_memory());
  A* const ws = memory;
  A* const gs = memory + n;
  const i64 mine = i64(blockIdx.z) * n;
  double* const h = hyper + i64(blockIdx.z) * settings;
  __shared__ typename U::template of<A> rule;
  const i64 between = i64(gridDim.z) * n;  // from one moment to the next, outside
  A* const ms = held ? memory + 2 * n : moments + mine;
  const i64 apart = held ? n : between;
  constexpr bool single = sizeof(A) == 4;
  constexpr int BROAD = single ? int(TALL) : 1, NARROW = single ? int(WIDE) : 1;  // as registers allow
  const bool learns = !running || running[blockIdx.z] != 0;
  const Layer bottom(places), top(places + (layers - 1) * 8);
  BlockLoss<E, L, A> block_loss(
      target, target_cols, lanes, accuracy, takes, numbers + i64(blockIdx.z) * loss_numbers, top.units);
  for (int i = thread(); i < n; i += threads()) ws[i] = w[mine + i], gs[i] = A(0);
  for (int m = 0; m < held; m++)
    for (int i = thread(); i < n; i += threads()) ms[m * n + i] = moments[m * between + mine + i];
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
        return order[blockIdx.z * length + (place < length ? place : length - 1)];
      };
      for (int item = thread(); item < some * inputs; item += threads()) {
        const int r = item / inputs, c = item % inputs;
        memory[bottom.x + r * pitch(inputs) + c] = A(to_acc(x[sample_of(r) * inputs + c]));
      }
      __syncthreads();
      for (int l = 0; l < layers; l++) {
        const Layer at(places + l * 8);
        if (enough<TALL, NARROW>(some, at.units)) forward<NARROW, N>(memory, at, some);
        else forward<1, N>(memory, at, some);
        __syncthreads();
      }
      block_loss.template add<N>(memory, top, some, sample_of, size == batch ? scale : tail_scale, share);
      __syncthreads();
      for (int l = layers - 1; l >= 0; l--) {
        const Layer at(places + l * 8);
        if (enough<TALL, BROAD>(at.inputs, at.units)) weight_gradient<BROAD>(memory, gs, at, some);
        else weight_gradient<1>(memory, gs, at, some);
        __syncthreads();
        if (l == 0) break;
        const Layer below(places + (l - 1) * 8);
        if (enough<TALL, NARROW>(some, at.inputs)) input_gradient<NARROW, N>(memory, at, below, some);
        else input_gradient<1, N>(memory, at, below, some);
        __syncthreads();
      }
    }
    A* const kept = last ? g + mine : static_cast<A*>(nullptr);
    optimize<U>(rule, learns, ws, gs, ms, apart, groups, blocks, n, kept);
    __syncthreads();  // before thread 0 prepares the next step
  }
  if (learns) {
    for (int i = thread(); i < n; i += threads()) w[mine + i] = ws[i];
    for (int m = 0; m < held; m++)
      for (int i = thread(); i < n; i += threads()) moments[m * between + mine + i] = ms[m * n + i];
  }
  const double loss = block_reduce<Sum>(block_loss.loss), correct = block_reduce<Sum>(block_loss.correct);
  if (thread() != 0) return;
  if (learns) h[0] += double(steps);
  total[i64(blockIdx.z) * 3 + LOSS] += loss, total[i64(blockIdx.z) * 3 + CORRECT] += correct;
}
