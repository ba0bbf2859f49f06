// One step of an optimizer over the flat buffers, gridDim = (blocks, 1, models).
//
// hyper holds for each model the step number, the learning rate, then the optimizer's own settings, in float64, so that
// they can change between steps of one plan; one thread of a block makes coefficients of them, because most devices have
// little float64. Where gate is 0 a step changes nothing, not even the step number. T is the type that the products
// read: where it has 16 bits, low receives a copy of the new weights.
#include "port.cuh"

BP_DEV bool moves(const double* gate) { return !gate || gate[blockIdx.z] != 0; }

// The step number goes up when all blocks of a model have read it.
BP_DEV void count_step(double* hyper, u32* tickets) {
  if (last_block(tickets + blockIdx.z, gridDim.x) && thread() == 0) hyper[0] += 1;
}

// The places of this thread in the flat buffers of its model, V at a time.
template<int V> struct Places {
  const i64 start, end, step;
  i64 i;
  BP_DEV explicit Places(i64 n)
      : start(blockIdx.z * n), end(start + n), step(i64(gridDim.x) * threads() * V),
        i(start + (i64(blockIdx.x) * threads() + thread()) * V) {}
  BP_DEV bool more() const { return i < end; }
  BP_DEV void next() { i += step; }
};

// W <- keep W - change, and its copy in 16 bits. All that a place needs is loaded before anything is stored, because the
// compiler may not move a load to before a store.
template<class T, int V>
BP_DEV void descend(acc<T>* w, T* low, i64 i, Vec<acc<T>, V> ws, const Vec<acc<T>, V>& change, acc<T> keep) {
  Vec<T, V> lows;
  for (int k = 0; k < V; k++) {
    ws.at[k] = keep * ws.at[k] - change.at[k];
    lows.at[k] = down<T>(ws.at[k]);
  }
  store(w + i, ws);
  if (low) store(low + i, lows);
}

// v <- mu v + g, W <- W - eta v, or W - eta (g + mu v) with Nesterov's momentum
template<class T, int V>
__global__ void __launch_bounds__(256) sgd(
    acc<T>* w,           // [models, n]
    const acc<T>* g,     // [models, n]
    acc<T>* velocity,    // [models, n]? null: no momentum
    double* hyper,       // [models, 3] step, eta, mu
    const double* gate,  // [models]?
    T* low,              // [models, n]?
    u32* tickets,        // [models]
    i64 n, int nesterov) {
  typedef acc<T> A;
  if (!moves(gate)) return;
  double* const h = hyper + blockIdx.z * 3;
  __shared__ A of_block[2];
  if (thread() == 0) of_block[0] = A(h[1]), of_block[1] = A(h[2]);
  __syncthreads();
  const A rate = of_block[0], mu = of_block[1];
  for (Places<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> change = gs;
    if (velocity) {
      Vec<A, V> vs = load<V>(velocity + at.i);
      for (int k = 0; k < V; k++) {
        vs.at[k] = mu * vs.at[k] + gs.at[k];
        change.at[k] = nesterov ? mu * vs.at[k] + gs.at[k] : vs.at[k];
      }
      store(velocity + at.i, vs);
    }
    for (int k = 0; k < V; k++) change.at[k] *= rate;
    descend<T, V>(w, low, at.i, ws, change, A(1));
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
    T* low,              // [models, n]?
    u32* tickets,        // [models]
    i64 n) {
  typedef acc<T> A;
  if (!moves(gate)) return;
  double* const h = hyper + blockIdx.z * 4;
  __shared__ A of_block[4];
  if (thread() == 0) of_block[0] = A(h[1]), of_block[1] = A(h[2]), of_block[2] = A(1 - h[2]), of_block[3] = A(h[3]);
  __syncthreads();
  const A rate = of_block[0], rho = of_block[1], rest = of_block[2], epsilon = of_block[3];
  for (Places<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> vs = load<V>(v + at.i), change;
    for (int k = 0; k < V; k++) {
      vs.at[k] = rho * vs.at[k] + rest * (gs.at[k] * gs.at[k]);
      change.at[k] = rate * (gs.at[k] / (sqrt(vs.at[k]) + epsilon));
    }
    store(v + at.i, vs);
    descend<T, V>(w, low, at.i, ws, change, A(1));
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
    T* low,              // [models, n]?
    u32* tickets,        // [models]
    i64 n) {
  typedef acc<T> A;
  if (!moves(gate)) return;
  double* const h = hyper + blockIdx.z * 3;
  __shared__ A of_block[2];
  if (thread() == 0) of_block[0] = A(h[1]), of_block[1] = A(h[2]);
  __syncthreads();
  const A rate = of_block[0], epsilon = of_block[1];
  for (Places<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> vs = load<V>(v + at.i), change;
    for (int k = 0; k < V; k++) {
      vs.at[k] += gs.at[k] * gs.at[k];
      change.at[k] = rate * (gs.at[k] / (sqrt(vs.at[k]) + epsilon));
    }
    store(v + at.i, vs);
    descend<T, V>(w, low, at.i, ws, change, A(1));
  }
  count_step(h, tickets);
}

// W <- W - eta lambda W - eta m^ / (sqrt(v^) + epsilon). The moments are kept without their factors 1 - beta, which go
// with the bias corrections into two coefficients: with k^2 = (1 - beta2) / (1 - beta2^t),
// eta m^ / (sqrt(v^) + epsilon) = eta (1 - beta1) / ((1 - beta1^t) k) m / (sqrt(v) + epsilon / k).
template<class T, int V>
__global__ void __launch_bounds__(256) adam(
    acc<T>* w,           // [models, n]
    const acc<T>* g,     // [models, n]
    acc<T>* m,           // [models, n]
    acc<T>* v,           // [models, n]
    double* hyper,       // [models, 6] step, eta, beta1, beta2, epsilon, lambda
    const double* gate,  // [models]?
    T* low,              // [models, n]?
    u32* tickets,        // [models]
    i64 n) {
  typedef acc<T> A;
  if (!moves(gate)) return;
  double* const h = hyper + blockIdx.z * 6;
  __shared__ A of_block[5];
  if (thread() == 0) {
    // 1 - beta^t is -expm1(t log1p(-(1 - beta))), which needs no float64 to be good where beta^t is close to 1.
    const A t = A(h[0] + 1), rest1 = A(1 - h[2]), rest2 = A(1 - h[3]);
    const A k = sqrt(rest2 / -expm1(t * log1p(-rest2)));
    of_block[0] = A(h[2]), of_block[1] = A(h[3]), of_block[2] = A(h[4]) / k;
    of_block[3] = A(h[1]) * (rest1 / -expm1(t * log1p(-rest1))) / k;
    of_block[4] = A(1 - h[1] * h[5]);
  }
  __syncthreads();
  const A b1 = of_block[0], b2 = of_block[1], epsilon = of_block[2], rate = of_block[3], keep = of_block[4];
  for (Places<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i), ws = load<V>(w + at.i);
    Vec<A, V> ms = load<V>(m + at.i), vs = load<V>(v + at.i), change;
    for (int k = 0; k < V; k++) {
      ms.at[k] = b1 * ms.at[k] + gs.at[k];
      vs.at[k] = b2 * vs.at[k] + gs.at[k] * gs.at[k];
      change.at[k] = rate * (ms.at[k] / (sqrt(vs.at[k]) + epsilon));
    }
    store(m + at.i, ms);
    store(v + at.i, vs);
    descend<T, V>(w, low, at.i, ws, change, keep);
  }
  count_step(h, tickets);
}
