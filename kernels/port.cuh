// What every kernel text begins with: one text for NVRTC, nvcc and, with tests/kernels_on_host/host.hpp in front of it,
// a host C++ compiler. NVRTC has no standard headers: neither INFINITY nor FLT_MAX nor int64_t exist here. CUDA's
// built-ins (threadIdx, __syncthreads, __shfl_xor_sync, __umul64hi ...) and overloaded exp, tanh, erf ... do.
#define BP_DEV __device__ __forceinline__

typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// The type that sums and formulas are worked out in: float for float and for anything narrower.
template<class T> struct Acc { typedef float type; };
template<> struct Acc<double> { typedef double type; };

// tiny: the smallest normal number; least: its root, so that 1/least and its square stay finite; floor_of: the most
// negative finite number, below every operand of a maximum.
template<class A> BP_DEV A tiny();
template<> BP_DEV float tiny<float>() { return 1.17549435e-38f; }
template<> BP_DEV double tiny<double>() { return 2.2250738585072014e-308; }
template<class A> BP_DEV A least();
template<> BP_DEV float least<float>() { return 1.0842021724855044e-19f; }
template<> BP_DEV double least<double>() { return 1.4916681462400413e-154; }
template<class A> BP_DEV A floor_of();
template<> BP_DEV float floor_of<float>() { return -3.402823466e+38f; }
template<> BP_DEV double floor_of<double>() { return -1.7976931348623157e+308; }

struct Sum {
  template<class A> BP_DEV static A identity() { return A(0); }
  template<class A> BP_DEV static A of(A a, A b) { return a + b; }
};
struct Maximum {  // a NaN among the operands is the result, as in numpy.maximum
  template<class A> BP_DEV static A identity() { return floor_of<A>(); }
  template<class A> BP_DEV static A of(A a, A b) { return a > b || a != a ? a : b; }
};

// Op over the 32 lanes of a warp; every lane gets the result. All lanes have to take part.
template<class Op, class A> BP_DEV A warp_reduce(A a) {
  for (int offset = 16; offset; offset >>= 1) a = Op::of(a, __shfl_xor_sync(0xffffffffu, a, offset));
  return a;
}

// Op over the threads of a block with blockDim (32 k, 1, 1), k <= 32; every thread gets the result, in an order that
// depends on blockDim alone. All threads have to take part.
template<class Op, class A> BP_DEV A block_reduce(A a) {
  __shared__ A of_warp[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  a = warp_reduce<Op>(a);
  __syncthreads();  // the last call may still be reading of_warp
  if (lane == 0) of_warp[warp] = a;
  __syncthreads();
  return warp_reduce<Op>(lane < int(blockDim.x >> 5) ? of_warp[lane] : Op::template identity<A>());
}
