// The functions that formulas are written in, for whole vectors of numbers at once: without branches and
// calls, so that the compiler turns a loop over them into vector instructions. exp, expm1, log and log1p are right to 2
// units in the last place, tanh to 6, erfc to 7. NaN and infinity are kept. Numbers too small to be normal may become
// 0, and exp is 0 below 1.8e-38: no step needs such numbers, and they are slow.
//
// The polynomials, and the fraction of tanh, were fitted for this file to values of 40 digits, for the smallest
// relative error. Multiplications are joined with additions where fma() says so and nowhere else, so that a
// number comes out the same in a vector and alone.
#include "port.hpp"

typedef unsigned int u32;

BP_DEV float from_bits(u32 bits) {
  float a;
  __builtin_memcpy(&a, &bits, sizeof a);
  return a;
}
BP_DEV u32 bits_of(float a) {
  u32 bits;
  __builtin_memcpy(&bits, &a, sizeof a);
  return bits;
}

// a b + c, rounded once where the processor has fma, else twice.
BP_DEV float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

BP_DEV double fma(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

BP_DEV float fabs(float a) { return __builtin_fabsf(a); }
BP_DEV float copysign(float a, float sign) { return __builtin_copysignf(a, sign); }

// yes ? a : b, always by a mask: where conditions are nested or repeated, the compiler may make a branch of ?: and then
// gives up on vectors.
BP_DEV float choose(bool yes, float a, float b) {
  const u32 mask = 0u - u32(yes);
  return from_bits((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

// The smallest normal number, and the largest one.
template<class A> BP_DEV A tiny() { return sizeof(A) == 4 ? A(1.17549435e-38f) : A(2.2250738585072014e-308); }
template<class A> BP_DEV A most() { return sizeof(A) == 4 ? A(3.402823466e+38f) : A(1.7976931348623157e+308); }

// e^x = 2^n e^r, |r| <= log(2)/2: half of 2^n, and e^r - 1. The half, because 2^128 is no float. x <= 89, or NaN.
struct Power {
  float half, rest;
};
BP_DEV Power power(float x) {
  const float shifted = fma(x, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;  // n lies in shifted's last bits
  const float r = fma(n, -1.42860677e-6f, fma(n, -0.693145752f, x));
  float p = 0.0013882520f;
  p = fma(p, r, 0.0083665159f);
  p = fma(p, r, 0.0416672006f);
  p = fma(p, r, 0.1666654348f);
  p = fma(p, r, 0.5f);
  return {from_bits((bits_of(shifted) + 126) << 23), fma(r * r, p, r)};
}

BP_DEV float exp(float x) {
  const Power e = power(x > 89.0f ? 89.0f : x);
  const float y = 2.0f * fma(e.half, e.rest, e.half);
  return x < -86.9f ? 0.0f : y;
}

BP_DEV float expm1(float x) {
  const Power e = power(x > 89.0f ? 89.0f : x);
  const float y = 2.0f * fma(e.half, e.rest, e.half - 0.5f);
  return x < -20.0f ? -1.0f : y;
}

// log(x) = n log(2) + log(1 + f), 1 + f between the root of 1/2 and that of 2
BP_DEV float log(float x) {
  const bool small = x < 1.17549435e-38f;
  const u32 bits = bits_of(choose(small, x * 8388608.0f, x)) - 0x3f3504f3u;
  const float n = float(int(bits) >> 23) - choose(small, 23.0f, 0.0f);
  const float f = from_bits((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f, square = f * f;
  float p = -0.0763443783f;
  p = fma(p, f, 0.1276156306f);
  p = fma(p, f, -0.1316019744f);
  p = fma(p, f, 0.1420176029f);
  p = fma(p, f, -0.1662335545f);
  p = fma(p, f, 0.2000122666f);
  p = fma(p, f, -0.2500082254f);
  p = fma(p, f, 0.3333333135f);
  const float low = fma(n, 1.42860677e-6f, fma(square * f, p, -0.5f * square));
  const float y = fma(n, 0.693145752f, f + low), edge = choose(x == 0.0f, -__builtin_inff(), __builtin_nanf(""));
  return choose(x > 0.0f, choose(x > 3.40282347e38f, x, y), edge);
}

// log(1 + x): 1 + x is rounded, and what it lost is added
BP_DEV float log1p(float x) {
  const float one = 1.0f + x, y = log(one), lost = (x - (one - 1.0f)) / one;
  return y + choose(fabs(y) < 100.0f, lost, 0.0f);
}

// x P(x x)/Q(x x), which is 1 from 9.02 on
BP_DEV float tanh(float x) {
  const float u = x * x;
  float p = 1.3384256e-8f, q = 7.790234515e-7f;
  p = fma(p, u, 2.06357959e-5f), q = fma(q, u, 0.000328851466f);
  p = fma(p, u, 0.00349745601f), q = fma(q, u, 0.0258843545f);
  p = fma(p, u, 0.133826858f), q = fma(q, u, 0.467160071f);
  q = fma(q, u, 1.0f);
  const float y = fma(x * u, p, x) / q;
  return choose((fabs(x) > 9.02f) | (fabs(y) > 1.0f), copysign(1.0f, x), y);
}

// cos(2 pi t) and sin(2 pi t), right to 2e-7. Half turns are taken off exactly, so that no t is too large, until floats
// lie so far apart that neither means anything; what is left is a quarter of a turn at most.
template<class A> struct CosSin {
  A cosine, sine;
};
BP_DEV CosSin<float> cos_sin_turns(float t) {
  const float shifted = fma(2.0f, t, 12582912.0f);  // how many half turns: a whole number, in its last bits
  const float r = t - choose(fabs(t) < 2097152.0f, 0.5f * (shifted - 12582912.0f), t), u = r * r;
  const u32 sign = bits_of(shifted) << 31;  // which an odd number of them changes
  float p = -24.982237f, q = 39.536705f;
  p = fma(p, u, 60.144016f), q = fma(q, u, -76.54978f);
  p = fma(p, u, -85.453575f), q = fma(q, u, 81.601006f);
  p = fma(p, u, 64.93935f), q = fma(q, u, -41.341656f);
  p = fma(p, u, -19.739208f), q = fma(q, u, 6.283185f);
  return {from_bits(bits_of(fma(p, u, 1.0f)) ^ sign), from_bits(bits_of(q * r) ^ sign)};
}

// In double: the C library's.
BP_DEV CosSin<double> cos_sin_turns(double t) {
  const double r = t - __builtin_floor(t);
  return {__builtin_cos(6.283185307179586 * r), __builtin_sin(6.283185307179586 * r)};
}
BP_DEV double fabs(double a) { return __builtin_fabs(a); }
BP_DEV double copysign(double a, double sign) { return __builtin_copysign(a, sign); }
BP_DEV double choose(bool yes, double a, double b) { return yes ? a : b; }
BP_DEV double exp(double x) { return __builtin_exp(x); }
BP_DEV double expm1(double x) { return __builtin_expm1(x); }
BP_DEV double log(double x) { return __builtin_log(x); }
BP_DEV double log1p(double x) { return __builtin_log1p(x); }
BP_DEV double tanh(double x) { return __builtin_tanh(x); }
BP_DEV double erfc(double x) { return __builtin_erfc(x); }

#include "../formulas.cuh"

BP_DEV float erfc(float x) {
  const float positive = fabs(x), a = positive > 10.5f ? 10.5f : positive;
  const float square = a * a, lost = fma(a, a, -square);  // e^-(square + lost)
  const float e = exp(-square), y = (e - e * lost) * scaled_erfc(a);
  return x < 0.0f ? 2.0f - y : y;
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
