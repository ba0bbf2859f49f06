// One step of an optimizer over the flat buffers, and the loss scaling of float16; gridDim = (blocks, 1, models).
//
// hyper holds for each model the step number, the learning rate, then the optimizer's own settings, in float64, so that
// they can change between steps of one plan; one thread of a block turns them into coefficients, because most devices
// are slow in float64. Where gate is 0 a step changes nothing, not even the step number. T is the type that the
// products read: where it has 16 bits, half_parameters receives a copy of the new weights.
#include "optimizers.cuh"

BP_DEV bool is_open(const double* gate) { return !gate || gate[blockIdx.z] != 0; }

// The step number goes up when all blocks of a model have read it.
BP_DEV void count_step(double* hyper, u32* tickets) {
  if (last_block(tickets + blockIdx.z, gridDim.x) && thread() == 0) hyper[0] += 1;
}

// The indices of this thread in the flat buffers of its model, V at a time.
template<int V> struct Elements {
  const i64 start, end, step;
  i64 i;
  BP_DEV explicit Elements(i64 n)
      : start(blockIdx.z * n), end(start + n), step(i64(gridDim.x) * threads() * V),
        i(start + (i64(blockIdx.x) * threads() + thread()) * V) {}
  BP_DEV bool more() const { return i < end; }
  BP_DEV void next() { i += step; }
};

enum { SCALE = 0, STREAK = 1, SKIPPED = 2 };

// Loss scaling, before a step in float16, where the loss was multiplied by S: g <- g / S, and gate, which is 0 where a
// number of g is not finite, else weight_sum, or 1. Such an overflow halves S, down to 1; `patience` steps in a row
// without one double it, up to `largest`. A batch without weight leaves all of this as it is.
template<class A, int V>
__global__ void __launch_bounds__(256) unscale(
    A* g,                      // [models, n]
    double* scaling,           // [models, 3] S, steps in a row without overflow, steps with one
    const double* weight_sum,  // [models]?
    double* gate,              // [models]
    u32* part,                 // [models, gridDim.x]
    u32* tickets,              // [models]
    i64 n, int patience, double largest) {
  double* const of = scaling + blockIdx.z * 3;
  const A inverse = A(1) / A(of[SCALE]);  // exact, since S is a power of two
  u32 bad = 0;
  for (Elements<V> at(n); at.more(); at.next()) {
    Vec<A, V> gs = load<V>(g + at.i);
    for (int k = 0; k < V; k++) {
      gs.at[k] *= inverse;
      bad |= gs.at[k] - gs.at[k] != A(0);  // of infinity and NaN it is NaN
    }
    store(g + at.i, gs);
  }
  if (!grid_sum(bad, part, tickets) || thread() != 0) return;
  const double weight = weight_sum ? weight_sum[blockIdx.z] : 1;
  gate[blockIdx.z] = bad ? 0 : weight;
  if (weight == 0) return;
  if (bad) {
    of[SCALE] = of[SCALE] > 2 ? of[SCALE] / 2 : 1;
    of[STREAK] = 0;
    of[SKIPPED] += 1;
  } else if (of[STREAK] + 1 < patience) {
    of[STREAK] += 1;
  } else {
    of[SCALE] = of[SCALE] < largest / 2 ? of[SCALE] * 2 : largest;
    of[STREAK] = 0;
  }
}

// W <- decay W - change, and its copy in 16 bits. Everything is loaded before anything is stored, because the compiler
// may not move a load to before a store.
template<class T, int V>
BP_DEV void descend(
    acc<T>* w, T* half_parameters, i64 i, Vec<acc<T>, V> ws, const Vec<acc<T>, V>& change, acc<T> decay) {
  Vec<T, V> halves;
  for (int k = 0; k < V; k++) {
    ws.at[k] = decay * ws.at[k] - change.at[k];
    halves.at[k] = from_acc<T>(ws.at[k]);
  }
  store(w + i, ws);
  if (half_parameters) store(half_parameters + i, halves);
}

// v <- mu v + g, W <- W - eta v, or W - eta (g + mu v) with Nesterov's momentum
template<class T, int V>
__global__ void __launch_bounds__(256) sgd(
    acc<T>* w,           // [models, n]
    const acc<T>* g,     // [models, n]
    acc<T>* velocity,    // [models, n]? null: no momentum
    double* hyper,       // [models, 3] step, eta, mu
    const double* gate,  // [models]?
    T* half_parameters,  // [models, n]?
    u32* tickets,        // [models]
    i64 n, int nesterov) {
  typedef acc<T> A;
  if (!is_open(gate)) return;
  double* const h = hyper + blockIdx.z * 3;
  __shared__ Sgd<A> of_block;
  if (thread() == 0) of_block.prepare(h);
  __syncthreads();
  const Sgd<A> rule = of_block;
  for (Elements<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> change = gs;
    if (velocity) {
      Vec<A, V> vs = load<V>(velocity + at.i);
      for (int k = 0; k < V; k++) change.at[k] = rule.direction(gs.at[k], vs.at[k], nesterov);
      store(velocity + at.i, vs);
    }
    for (int k = 0; k < V; k++) change.at[k] *= rule.rate;
    descend<T, V>(w, half_parameters, at.i, ws, change, A(1));
  }
  count_step(h, tickets);
}

// v <- rho v + (1 - rho) g^2, W <- W - eta g / (sqrt(v) + epsilon)
template<class T, int V>
__global__ void __launch_bounds__(256, 4) rmsprop(
    acc<T>* w,           // [models, n]
    const acc<T>* g,     // [models, n]
    acc<T>* v,           // [models, n]
    double* hyper,       // [models, 4] step, eta, rho, epsilon
    const double* gate,  // [models]?
    T* half_parameters,  // [models, n]?
    u32* tickets,        // [models]
    i64 n) {
  typedef acc<T> A;
  if (!is_open(gate)) return;
  double* const h = hyper + blockIdx.z * 4;
  __shared__ A of_block[4];
  if (thread() == 0) of_block[0] = A(h[1]), of_block[1] = A(h[2]), of_block[2] = A(1 - h[2]), of_block[3] = A(h[3]);
  __syncthreads();
  const A rate = of_block[0], rho = of_block[1], rest = of_block[2], epsilon = of_block[3];
  for (Elements<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> vs = load<V>(v + at.i), change;
    for (int k = 0; k < V; k++) {
      const A grad = clip(gs.at[k], largest_gradient<A>());
      vs.at[k] = rho * vs.at[k] + rest * (grad * grad);
      change.at[k] = rate * (grad / (sqrt(vs.at[k]) + epsilon));
    }
    store(v + at.i, vs);
    descend<T, V>(w, half_parameters, at.i, ws, change, A(1));
  }
  count_step(h, tickets);
}

// v <- v + g^2, W <- W - eta g / (sqrt(v) + epsilon)
template<class T, int V>
__global__ void __launch_bounds__(256, 4) adagrad(
    acc<T>* w,           // [models, n]
    const acc<T>* g,     // [models, n]
    acc<T>* v,           // [models, n]
    double* hyper,       // [models, 3] step, eta, epsilon
    const double* gate,  // [models]?
    T* half_parameters,  // [models, n]?
    u32* tickets,        // [models]
    i64 n) {
  typedef acc<T> A;
  if (!is_open(gate)) return;
  double* const h = hyper + blockIdx.z * 3;
  __shared__ A of_block[2];
  if (thread() == 0) of_block[0] = A(h[1]), of_block[1] = A(h[2]);
  __syncthreads();
  const A rate = of_block[0], epsilon = of_block[1];
  for (Elements<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> vs = load<V>(v + at.i), change;
    for (int k = 0; k < V; k++) {
      const A grad = clip(gs.at[k], largest_gradient<A>());
      const A sum = vs.at[k] + grad * grad;
      vs.at[k] = sum > most<A>() ? most<A>() : sum;
      change.at[k] = rate * (grad / (sqrt(vs.at[k]) + epsilon));
    }
    store(v + at.i, vs);
    descend<T, V>(w, half_parameters, at.i, ws, change, A(1));
  }
  count_step(h, tickets);
}

// W <- W - eta lambda W - eta m^ / (sqrt(v^) + epsilon)
template<class T, int V>
__global__ void __launch_bounds__(256, 3) adam(
    acc<T>* w,           // [models, n]
    const acc<T>* g,     // [models, n]
    acc<T>* m,           // [models, n]
    acc<T>* v,           // [models, n]
    double* hyper,       // [models, 6] step, eta, beta1, beta2, epsilon, lambda
    const double* gate,  // [models]?
    T* half_parameters,  // [models, n]?
    u32* tickets,        // [models]
    i64 n) {
  typedef acc<T> A;
  if (!is_open(gate)) return;
  double* const h = hyper + blockIdx.z * 6;
  __shared__ Adam<A> of_block;
  if (thread() == 0) of_block.prepare(h, h[0] + 1);
  __syncthreads();
  const Adam<A> rule = of_block;
  for (Elements<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> ms = load<V>(m + at.i), vs = load<V>(v + at.i), change;
    for (int k = 0; k < V; k++) change.at[k] = rule.change(gs.at[k], ms.at[k], vs.at[k]);
    store(m + at.i, ms);
    store(v + at.i, vs);
    descend<T, V>(w, half_parameters, at.i, ws, change, rule.decay);
  }
  count_step(h, tickets);
}
