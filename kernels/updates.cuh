// What the rules of optimizers are written with, on CUDA and on the CPU, besides the functions of formulas.

// A gradient, clipped at +-bound: squares of larger ones would add up to infinity, and stop a parameter for ever. An
// infinite one becomes NaN, which the loss shows.
template<class A> BP_DEV A clip(A g, A bound) {
  const A below = g > bound ? bound : g;
  return (below < -bound ? -bound : below) + (g - g);
}
template<class A> BP_DEV A largest_gradient() { return A(0.5) * sqrt(most<A>()); }
template<class A> BP_DEV A sign(A a) { return a > A(0) ? A(1) : a < A(0) ? A(-1) : a; }

// The factors of rate, decay and penalties of the block of 256 bytes that parameter i lies in. Where there is no table
// all are 1, and nothing is multiplied by those of rate and decay. Where the rate is 0, the parameter and its moments
// stay as they are.
template<class A> struct Group {
  bool some;
  A rate, decay, penalty;
  BP_DEV Group() {}
  BP_DEV Group(const A* groups, i64 blocks, i64 i) : some(groups), rate(A(1)), decay(A(1)), penalty(A(1)) {
    if (!some) return;
    const i64 block = i * i64(sizeof(A)) / 256;
    rate = groups[block], decay = groups[blocks + block], penalty = groups[2 * blocks + block];
  }
  // W <- (1 - eta lambda rate decay) W - rate change
  template<class U, class Rule> BP_DEV A moved(const Rule& rule, A w, A change) const {
    if (some) return (A(1) - rule.weight_shrink * (rate * decay)) * w - rate * change;
    return U::decays ? rule.weight_keep * w - change : w - change;
  }
};

// The change of parameter i, whose moments lie `apart` from each other, and whose penalties have a factor.
template<class U, class Rule, class A>
BP_DEV A step_of(const Rule& rule, A w, A g, A penalty, A* moments, i64 i, i64 apart) {
  A moment[U::moments + 1];
  for (int m = 0; m < U::moments; m++) moment[m] = moments[m * apart + i];
  const A change = rule.step(w, rule.gradient(w, g, penalty), moment);
  for (int m = 0; m < U::moments; m++) moments[m * apart + i] = moment[m];
  return change;
}
