// Stands in for CUDA's header: what port.cuh uses of it.
#pragma once
#include "narrow.hpp"

struct __nv_bfloat16 { unsigned short bits; };
inline float __bfloat162float(__nv_bfloat16 a) { return widened<7>(a.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float a) { return {narrowed<7>(a)}; }
