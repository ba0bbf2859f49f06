// Functions that the formulas of activations use, on CUDA and on the CPU: they need exp, fabs and fma, and are
// exact to rounding wherever the result is a normal number.

// p t^n + c1 t^(n-1) + ... + cn
template<class A> BP_DEV A polynomial(A, A p) { return p; }
template<class A, class... Rest> BP_DEV A polynomial(A t, A p, A c, Rest... rest) {
  return polynomial<A>(t, fma(p, t, c), rest...);
}

// e^(x x) erfc(x) = P(t) / (1 + 2 x), t = (x - 3) / (x + 3), for x >= 0, with the polynomials of network/gelu.py
template<class A> BP_DEV A scaled_erfc(A x) {
  const A t = (x - A(3)) / (x + A(3));
  const A p = sizeof(A) == 4
      ? polynomial<A>(
            t, A(3.861849136821459e-06), A(7.731024224076895e-05), A(-0.00010413071427970404),
            A(-0.0007264536790340485), A(0.0018881128646091253), A(0.0024991168696069477), A(-0.023770334675484478),
            A(0.06831656777114085), A(-0.11927369132068087), A(0.1296441143440814), A(-0.04756229269565379),
            A(-0.1356210694002736), A(1.2530080582534238))
      : polynomial<A>(
            t, A(-3.181354143463839e-09), A(-7.641962892575696e-09), A(2.7843881265326165e-08),
            A(8.765881411723296e-08), A(-1.205414228644904e-07), A(-5.963983625521162e-07), A(3.366979080635552e-07),
            A(3.4542947702775464e-06), A(-7.187883834400105e-07), A(-2.0089997833284136e-05),
            A(4.944124342223447e-06), A(0.00012509531076254526), A(-0.00010515831297813122),
            A(-0.0007798312797290158), A(0.0018886900977441495), A(0.0025293916672051724), A(-0.023770514891530075),
            A(0.06830802735638397), A(-0.11927366341676002), A(0.12964515870228346), A(-0.04756229435342038),
            A(-0.13562110612457576), A(1.2530080582697296));
  return p / fma(A(2), x, A(1));
}

// gelu(z) = max(z, 0) - a Q(a), and its slope, 1 + a phi(a) - Q(a) where z > 0, else Q(a) - a phi(a): a = |z|, Q the
// upper tail of the normal distribution, phi its density. Both are e^(-a a / 2), 0 from 40 on, times something of
// moderate size; it is taken as a square, for its root is normal where itself it is not.
template<class A> BP_DEV A up_to_40(A z) {
  const A a = fabs(z);
  return a > A(40) ? A(40) : a;
}
template<class A> BP_DEV A root_bell(A a) {  // e^(-a a / 4): a a is rounded, and what it lost is made good
  const A square = a * a;
  return exp(A(-0.25) * square) * fma(A(-0.25), fma(a, a, -square), A(1));
}
template<class A> BP_DEV A gelu(A z) {
  const A a = up_to_40(z), root = root_bell(a);
  return (z > A(0) ? z : A(0)) - A(0.5) * a * scaled_erfc(a * A(0.7071067811865476)) * root * root;
}
template<class A> BP_DEV A gelu_slope(A z) {
  const A a = up_to_40(z), root = root_bell(a);
  const A h = root * (root * (A(0.3989422804014327) * a - A(0.5) * scaled_erfc(a * A(0.7071067811865476))));
  return z > A(0) ? A(1) + h : -h;
}

// z s and its slope s (1 + z w' (1 - s)), where s = 1/(1 + e^-w); e^-|w| is taken as a square, as above.
template<class A> BP_DEV A gated(A z, A w) {
  const A root = exp(A(-0.5) * fabs(w)), part = w < A(0) ? root : A(1);
  return z * part * (part / (A(1) + root * root));
}
template<class A> BP_DEV A gated_slope(A zw, A w) {  // zw: z w'
  const A root = exp(A(-0.5) * fabs(w)), below = A(1) / (A(1) + root * root);
  const A part = w < A(0) ? root : A(1), other = w < A(0) ? A(1) : root;
  const A clamped = zw > A(1e5) ? A(1e5) : zw < A(-1e5) ? A(-1e5) : zw;  // infinity times 0 would be no number
  return part * below * (part * (A(1) + clamped * (other * other * below)));
}

// z t and its slope t + z s (1 - t t), where t = tanh(log(1 + e^z)) and s = 1/(1 + e^-z): t is part part over / below, of
// e = e^-|z|, and s (1 - t t) is part part 4 (1 + e) / (below below), times e e where z >= 0.
template<class A> struct SoftplusTanh {
  bool negative;
  A e, part, over, below;
  BP_DEV SoftplusTanh(A z) : negative(z < A(0)) {
    const A root = exp(A(-0.5) * fabs(z));
    e = root * root;
    part = negative ? root : A(1);
    over = negative ? e + A(2) : fma(A(2), e, A(1));
    below = negative ? fma(e, over, A(2)) : fma(A(2) * e, e, over);
  }
};
template<class A> BP_DEV A mish(A z) {
  const SoftplusTanh<A> t(z);
  return z * t.part * (t.part * (t.over / t.below));
}
template<class A> BP_DEV A mish_slope(A z) {
  const SoftplusTanh<A> t(z);
  const A clamped = z > A(1e5) ? A(1e5) : z < A(-1e5) ? A(-1e5) : z;  // infinity times 0 would be no number
  const A each = A(1) / t.below, rest = A(4) * clamped * (A(1) + t.e) * (t.negative ? A(1) : t.e * t.e) * each;
  return t.part * (t.part * ((t.over + rest) * each));
}

// w of gelu's tanh form, z (1 + tanh(w/2))/2 = z/(1 + e^-w), and z w'
template<class A> BP_DEV A cubic(A z) {
  const A a = up_to_40(z), w = A(1.5957691216057308) * a * (A(1) + A(0.044715) * a * a);
  return z < A(0) ? -w : w;
}
template<class A> BP_DEV A cubic_slope(A z) {
  const A a = up_to_40(z), zw = A(1.5957691216057308) * a * (A(1) + A(0.134145) * a * a);
  return z < A(0) ? -zw : zw;
}
