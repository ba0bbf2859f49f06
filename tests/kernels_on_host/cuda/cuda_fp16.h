// Stands in for CUDA's header: what port.cuh uses of it.
#pragma once
#include "narrow.hpp"

struct __half { unsigned short bits; };
inline float __half2float(__half a) { return widened<10>(a.bits); }
inline __half __float2half_rn(float a) { return {narrowed<10>(a)}; }
