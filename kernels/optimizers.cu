// One step of an optimizer over the flat buffers, and the loss scaling of float16; gridDim = (blocks, 1, models).
//
// hyper holds for each model the step number and the settings of a rule, U, in float64, so that they can change between
// steps of one plan; one thread of a block turns them into coefficients, because most devices are slow in float64, while
// the others wait for what they have loaded. Where gradient_factor is 0 a step changes nothing. T is the type that the products read:
// where it has 16 bits, half_parameters receives a copy of the new weights.
#include "optimizers.cuh"

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

// Loss scaling, after back-propagation in float16, where the loss was multiplied by S: factor = 1/S, or 0 where a number
// of g is not finite or `counted` is 0. Such an overflow halves S, down to 1; `patience` steps in a row without one
// double it, up to `largest`. Where counted is 0, all of this stays as it is.
template<class A, int V>
__global__ void __launch_bounds__(256, 4) unscale(
    const A* g,             // [models, n]
    double* scaling,        // [models, 3] S, steps in a row without overflow, steps with one
    const double* counted,  // [models]?
    double* factor,         // [models]
    u32* partial,           // [models, gridDim.x]
    u32* tickets,           // [models]
    i64 n, int patience, double largest) {
  Vec<u32, 1> found = filled<1>(0u);
  for (Elements<V> at(n); at.more(); at.next()) {
    const Vec<A, V> gs = load<V>(g + at.i);
    for (int k = 0; k < V; k++) found.at[0] |= gs.at[k] - gs.at[k] != A(0);  // of infinity and NaN it is NaN
  }
  if (!grid_sum<AlongX>(found, partial, tickets)) return;
  const bool bad = found.at[0] != 0;
  double* const of = scaling + blockIdx.z * 3;
  const bool counts = !counted || counted[blockIdx.z] != 0;
  factor[blockIdx.z] = bad || !counts ? 0 : 1 / of[SCALE];
  if (!counts) return;
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

// Blocks that a multiprocessor is to hold: as many as the rules of ours allow without a spill.
template<class T, class U>
constexpr int resident_blocks = U::moments > 2 ? 2 : 4 - (U::moments > 1) - (sizeof(T) != 4 && U::moments > 0);

// What a step reads and writes of V parameters.
template<class A, class U, int V> struct Parameters {
  Vec<A, V> w, g, moments[U::moments + 1];
  BP_DEV void load_from(const A* all_w, const A* all_g, const A* all_moments, i64 i, i64 apart) {
    g = load<V>(all_g + i), w = load<V>(all_w + i);
    for (int m = 0; m < U::moments; m++) moments[m] = load<V>(all_moments + m * apart + i);
  }
};

// W <- (1 - eta lambda) W - change, by the rule U, and its copy in 16 bits. Everything is loaded before anything is
// stored, because the compiler may not move a load to before a store.
template<class T, class U, int V>
__global__ void __launch_bounds__(256, resident_blocks<T, U>) update(
    acc<T>* w,                      // [models, n]
    const acc<T>* g,                // [models, n]
    acc<T>* moments,                // [count, models, n]?
    const double* hyper,            // [models, settings] step and the settings of the rule
    const double* gradient_factor,  // [models]?
    const acc<T>* groups,           // [3, blocks]? the factors of rate, decay and penalties
    T* half_parameters,             // [models, n]?
    i64 n, i64 blocks, int count, int settings) {
  typedef acc<T> A;
  if (gradient_factor && gradient_factor[blockIdx.z] == 0) return;
  const A factor = gradient_factor ? A(gradient_factor[blockIdx.z]) : A(1);
  const double* const h = hyper + i64(blockIdx.z) * settings;
  const i64 apart = i64(gridDim.z) * n;  // from one moment to the next
  Elements<V> at(n);
  Parameters<A, U, V> of;
  if (at.more()) of.load_from(w, g, moments, at.i, apart);  // is on its way while the coefficients are worked out
  __shared__ typename U::template of<A> of_block;
  if (thread() == 0) of_block.template prepare<A>(h[0], h + 1);
  __syncthreads();
  const typename U::template of<A> rule = of_block;
  while (at.more()) {
    const Group<A> group(groups, blocks, at.i - at.start);
    const i64 i = at.i;
    Vec<T, V> halves;
    for (int k = 0; k < V; k++) {
      A moment[U::moments + 1];
      for (int m = 0; m < U::moments; m++) moment[m] = of.moments[m].at[k];
      const A g_k = gradient_factor ? factor * of.g.at[k] : of.g.at[k];
      const A change = rule.step(of.w.at[k], rule.gradient(of.w.at[k], g_k, group.penalty), moment);
      for (int m = 0; m < U::moments; m++) of.moments[m].at[k] = moment[m];
      of.w.at[k] = group.template moved<U>(rule, of.w.at[k], change);
      halves.at[k] = from_acc<T>(of.w.at[k]);
    }
    if (group.rate != A(0)) {
      for (int m = 0; m < U::moments; m++) store(moments + m * apart + i, of.moments[m]);
      store(w + i, of.w);
      if (half_parameters) store(half_parameters + i, halves);
    }
    at.next();
    if (at.more()) of.load_from(w, g, moments, at.i, apart);
  }
}
