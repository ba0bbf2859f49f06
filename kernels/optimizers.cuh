// The functions of coefficients, in C, which is float where parameters are: most devices are slow in float64.
#include "port.cuh"
#include "updates.cuh"

template<class A> BP_DEV A quotient(A a, A b) { return a / b; }  // for which a CPU has a faster way

template<class C> BP_DEV C root(C a) { return sqrt(a); }
template<class C, class B> BP_DEV C power(C a, B b) { return pow(a, C(b)); }

// 1 - (1 - rest)^step, which needs no float64 to be good where the power is close to 1
template<class C> BP_DEV C correction(C rest, double step) { return -expm1(C(step) * log1p(-rest)); }
#include "coefficients.cuh"
