// 16-bit floating-point numbers as bits: F bits of fraction, 15 - F of exponent, a sign. Host compilers have no such
// types that all of them agree on.
#pragma once
#include <math.h>

// Rounded to the nearest, ties to even.
template<int F> unsigned short narrowed(float a) {
  const int exponents = 15 - F, bias = (1 << (exponents - 1)) - 1, infinity = (1 << exponents) - 1;
  const int sign = signbit(a) ? 0x8000 : 0;
  if (isnan(a)) return (unsigned short)(sign | 0x7fff);
  if (isinf(a)) return (unsigned short)(sign | infinity << F);
  if (a == 0) return (unsigned short)sign;
  int e;
  frexp(a, &e);                                              // |a| < 2^e
  e = e - 1 < 1 - bias ? 1 - bias : e - 1;                   // numbers below the smallest normal one share its exponent
  const int unit = int(nearbyint(ldexp(fabs(double(a)), F - e)));  // |a| in units of its last place, 2^(F + 1) at most
  const int bits = unit + ((e + bias - 1) << F);             // carries go into the exponent by themselves
  return (unsigned short)(sign | (bits < infinity << F ? bits : infinity << F));
}

template<int F> float widened(unsigned short bits) {
  const int exponents = 15 - F, bias = (1 << (exponents - 1)) - 1, infinity = (1 << exponents) - 1;
  const int fraction = bits & ((1 << F) - 1), e = bits >> F & infinity;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (e == infinity) return sign * (fraction ? NAN : INFINITY);
  return sign * ldexp(float(e ? fraction | 1 << F : fraction), (e ? e : 1) - bias - F);
}
