// The functions that formulas are written in, in float and double, for whole vectors of numbers at once: without
// branches and calls, so that the compiler turns a loop over them into vector instructions. exp, expm1, log and log1p
// are right to 2 units in the last place, tanh to 6, erfc to 7. NaN and infinity are kept. Numbers too small to be
// normal may become 0, and exp is 0 below 1.5 times the smallest normal one: no step needs such numbers, and they are
// slow.
//
// The polynomials, and the fraction of tanh, were fitted for this file to values of 40 digits and more, for the smallest
// relative error. Multiplications are joined with additions where fma() says so and nowhere else, so that a
// number comes out the same in a vector and alone.
#include "port.hpp"

// What the two types differ in, besides the polynomials.
template<class A> struct Format;
template<> struct Format<float> {
  typedef u32 Bits;
  static constexpr int fraction = 23, bias = 127;  // bits behind the point; what is added to the exponent
  static constexpr float smallest = 1.17549435e-38f, largest = 3.402823466e+38f;    // normal numbers
  static constexpr float lowest = -86.9f, highest = 89.0f;                          // exp is 0 below, infinite above
  static constexpr float log2_high = 0.693145752f, log2_low = 1.42860677e-6f;       // n log2_high is exact
  static constexpr Bits root = 0x3f3504f3u;                                         // of 1/2
  static constexpr Bits reciprocal = 0x7ef310cbu;  // this less the bits of b: those of 1/b but for 5 %
};
template<> struct Format<double> {
  typedef u64 Bits;
  static constexpr int fraction = 52, bias = 1023;
  static constexpr double smallest = 2.2250738585072014e-308, largest = 1.7976931348623157e+308;
  static constexpr double lowest = -708.0, highest = 710.0;
  static constexpr double log2_high = 0.6931471803691238, log2_low = 1.9082149292705877e-10;
  static constexpr Bits root = 0x3fe6a09e667f3bcdull, reciprocal = 0x7fde6219652bd400ull;
};

// The smallest normal number, and the largest one.
template<class A> BP_DEV A tiny() { return Format<A>::smallest; }
template<class A> BP_DEV A most() { return Format<A>::largest; }

BP_DEV float from_bits(u32 bits) {
  float a;
  __builtin_memcpy(&a, &bits, sizeof a);
  return a;
}
BP_DEV double from_bits(u64 bits) {
  double a;
  __builtin_memcpy(&a, &bits, sizeof a);
  return a;
}
template<class A> BP_DEV typename Format<A>::Bits bits_of(A a) {
  typename Format<A>::Bits bits;
  __builtin_memcpy(&bits, &a, sizeof a);
  return bits;
}

// a b + c, rounded once where the processor has fma, else twice.
#if defined(__FMA__) || defined(__aarch64__)
BP_DEV float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
BP_DEV double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
template<class A> BP_DEV A fma(A a, A b, A c) { return a * b + c; }
#endif

BP_DEV float fabs(float a) { return __builtin_fabsf(a); }
BP_DEV double fabs(double a) { return __builtin_fabs(a); }
BP_DEV float copysign(float a, float sign) { return __builtin_copysignf(a, sign); }
BP_DEV double copysign(double a, double sign) { return __builtin_copysign(a, sign); }

// yes ? a : b, always by a mask: where conditions are nested or repeated, the compiler may make a branch of ?: and then
// gives up on vectors.
template<class A> BP_DEV A choose(bool yes, A a, A b) {
  const typename Format<A>::Bits mask = -typename Format<A>::Bits(yes);
  return from_bits((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

// a/b without the processor's divider, which takes longer than all of this and is busy where the formula has a root
// too: right to 2 units in the last place, for positive numbers b of moderate size.
template<class A> BP_DEV A quotient(A a, A b) {
  const A first = from_bits(Format<A>::reciprocal - bits_of(b)), off = fma(-b, first, A(1));  // 5 %
  A each = fma(first, fma(off, off, off), first);  // what is off is raised to the third power
  const A rest = fma(-b, each, A(1));
  each = fma(each, sizeof(A) == 4 ? rest : fma(rest, rest, rest), each);
  return a * (sizeof(A) == 4 ? each : fma(each, fma(-b, each, A(1)), each));
}

template<class A> BP_DEV A exp(A x);
#include "../formulas.cuh"

// e^x = 2^n e^r, |r| <= log(2)/2: half of 2^n, and e^r - 1. The half, because 2^128 is no float. x <= highest, or NaN.
template<class A> struct Power {
  A half, rest;
};
template<class A> BP_DEV Power<A> power(A x) {
  typedef Format<A> F;
  const A whole = A(typename F::Bits(3) << (F::fraction - 1));  // what is added to it becomes a whole number
  const A shifted = fma(x, A(1.4426950408889634), whole), n = shifted - whole;  // n lies in shifted's last bits
  const A r = fma(n, -F::log2_low, fma(n, -F::log2_high, x));
  const A p = sizeof(A) == 4
      ? polynomial<A>(r, A(0.0013882520), A(0.0083665159), A(0.0416672006), A(0.1666654348), A(0.5))
      : polynomial<A>(
            r, A(2.504595184579085e-08), A(2.762222021484516e-07), A(2.7557424908445222e-06), A(2.480151636383958e-05),
            A(0.000198412697095446), A(0.0013888888920497741), A(0.008333333333388275), A(0.04166666666662),
            A(0.16666666666666602), A(0.5));
  return {from_bits((bits_of(shifted) + (F::bias - 1)) << F::fraction), fma(r * r, p, r)};
}

template<class A> BP_DEV A exp(A x) {
  const Power<A> e = power(x > Format<A>::highest ? Format<A>::highest : x);
  const A y = A(2) * fma(e.half, e.rest, e.half);
  return x < Format<A>::lowest ? A(0) : y;
}

template<class A> BP_DEV A expm1(A x) {
  const Power<A> e = power(x > Format<A>::highest ? Format<A>::highest : x);
  const A y = A(2) * fma(e.half, e.rest, e.half - A(0.5));
  return x < A(-38) ? A(-1) : y;
}

// log(x) = n log(2) + log(1 + f), 1 + f between the root of 1/2 and that of 2
template<class A> BP_DEV A log(A x) {
  typedef Format<A> F;
  typedef typename F::Bits Bits;
  const Bits one = Bits(1) << F::fraction;
  const bool small = x < F::smallest;
  const Bits bits = bits_of(choose(small, x * A(one), x)) - F::root + F::bias * one;  // its exponent is n + bias
  const A n = from_bits((bits >> F::fraction) | bits_of(A(one))) - (A(one) + A(F::bias)) -
      choose(small, A(F::fraction), A(0));
  const A f = from_bits((bits & (one - 1)) + F::root) - A(1), square = f * f;
  const A p = sizeof(A) == 4
      ? polynomial<A>(
            f, A(-0.0763443783), A(0.1276156306), A(-0.1316019744), A(0.1420176029), A(-0.1662335545), A(0.2000122666),
            A(-0.2500082254), A(0.3333333135))
      : polynomial<A>(
            f, A(0.02615104422532579), A(-0.05981717724970491), A(0.06503492334182169), A(-0.05677778055169667),
            A(0.05668375758810426), A(-0.06196679438970608), A(0.06684589546421132), A(-0.07149439427492454),
            A(0.07691529774061064), A(-0.08332913544243198), A(0.09090923934380586), A(-0.10000015206194231),
            A(0.11111111147392602), A(-0.124999996914432), A(0.14285714280094103), A(-0.16666666669825875),
            A(0.2000000000006661), A(-0.24999999999987976), A(0.3333333333333314));
  const A low = fma(n, F::log2_low, fma(square * f, p, A(-0.5) * square));
  const A y = fma(n, F::log2_high, f + low), edge = choose(x == A(0), A(-__builtin_inf()), A(__builtin_nan("")));
  return choose(x > A(0), choose(x > F::largest, x, y), edge);
}

// log(1 + x): 1 + x is rounded, and what it lost is added
template<class A> BP_DEV A log1p(A x) {
  const A one = A(1) + x, y = log(one), lost = (x - (one - A(1))) / one;
  return y + choose(fabs(y) < A(1000), lost, A(0));
}

// x P(x x)/Q(x x), which is 1 from 9.02 on
BP_DEV float tanh(float x) {
  const float u = x * x;
  const float p = polynomial(u, 1.3384256e-8f, 2.06357959e-5f, 0.00349745601f, 0.133826858f);
  const float q = polynomial(u, 7.790234515e-7f, 0.000328851466f, 0.0258843545f, 0.467160071f, 1.0f);
  const float y = fma(x * u, p, x) / q;
  return choose((fabs(x) > 9.02f) | (fabs(y) > 1.0f), copysign(1.0f, x), y);
}
BP_DEV double tanh(double x) {
  const double t = expm1(-2.0 * fabs(x));
  return copysign(t / (t + 2.0), x);
}

// cos(2 pi t) and sin(2 pi t), right to 2e-7 in float and 5e-16 in double. Half turns are taken off exactly, so that no
// t is too large, until numbers lie so far apart that neither means anything; what is left is a quarter of a turn at
// most.
template<class A> struct CosSin {
  A cosine, sine;
};
template<class A> BP_DEV CosSin<A> cos_sin_turns(A t) {
  typedef Format<A> F;
  typedef typename F::Bits Bits;
  const A whole = A(Bits(3) << (F::fraction - 1)), far = A(Bits(1) << (F::fraction - 2));
  const A shifted = fma(A(2), t, whole);  // how many half turns: a whole number, in its last bits
  const A r = t - choose(fabs(t) < far, A(0.5) * (shifted - whole), t), u = r * r;
  const Bits sign = bits_of(shifted) << (8 * sizeof(A) - 1);  // which an odd number of them changes
  const A p = sizeof(A) == 4
      ? polynomial<A>(u, A(-24.982237), A(60.144016), A(-85.453575), A(64.93935), A(-19.739208))
      : polynomial<A>(
            u, A(0.2720236392610778), A(-1.7132389742824408), A(7.903464727943109), A(-26.426254195480354),
            A(60.24464131737547), A(-85.45681720605857), A(64.93939402266471), A(-19.73920880217871));
  const A q = sizeof(A) == 4
      ? polynomial<A>(u, A(39.536705), A(-76.54978), A(81.601006), A(-41.341656), A(6.283185))
      : polynomial<A>(
            u, A(0.10085632705627463), A(-0.7177235790026297), A(3.8199270503414193), A(-15.094641620502063),
            A(42.05869392378502), A(-76.70585975279849), A(81.60524927607341), A(-41.341702240399755),
            A(6.283185307179586));
  return {from_bits(bits_of(fma(p, u, A(1))) ^ sign), from_bits(bits_of(q * r) ^ sign)};
}

template<class A> BP_DEV A erfc(A x) {
  const A most = A(sizeof(A) == 4 ? 10.5 : 27), positive = fabs(x), a = positive > most ? most : positive;
  const A square = a * a, lost = fma(a, a, -square);  // e^-(square + lost)
  const A e = exp(-square), y = (e - e * lost) * scaled_erfc(a);
  return x < A(0) ? A(2) - y : y;
}

// Functions that no built-in formula uses, but a user's may: the C library's, or one instruction.
#define BP_OF_ONE(name) \
  BP_DEV float name(float a) { return __builtin_##name##f(a); } \
  BP_DEV double name(double a) { return __builtin_##name(a); }
#define BP_OF_TWO(name, function) \
  BP_DEV float name(float a, float b) { return __builtin_##function##f(a, b); } \
  BP_DEV double name(double a, double b) { return __builtin_##function(a, b); }
BP_OF_ONE(sqrt) BP_OF_ONE(floor) BP_OF_ONE(ceil) BP_OF_ONE(erf) BP_OF_ONE(exp2) BP_OF_ONE(log2) BP_OF_ONE(log10)
BP_OF_ONE(cbrt) BP_OF_ONE(sin) BP_OF_ONE(cos) BP_OF_ONE(tan) BP_OF_ONE(asin) BP_OF_ONE(acos) BP_OF_ONE(atan)
BP_OF_ONE(sinh) BP_OF_ONE(cosh) BP_OF_ONE(asinh)
BP_OF_TWO(fmax, fmax) BP_OF_TWO(fmin, fmin) BP_OF_TWO(max, fmax) BP_OF_TWO(min, fmin) BP_OF_TWO(pow, pow)
BP_OF_TWO(atan2, atan2)
BP_DEV float rsqrt(float a) { return 1.0f / sqrt(a); }
BP_DEV double rsqrt(double a) { return 1.0 / sqrt(a); }
BP_DEV float abs(float a) { return fabs(a); }
BP_DEV double abs(double a) { return fabs(a); }
