// The beginning of every kernel text: one text for NVRTC, nvcc and, with tests/kernels_on_host/host.hpp in front of it,
// a host C++ compiler. NVRTC has no standard headers: neither INFINITY nor FLT_MAX nor int64_t exist here. CUDA's
// built-ins (threadIdx, __syncthreads, __shfl_xor_sync, __umul64hi ...) and overloaded exp, tanh, erf ... do.
//
// A kernel's head is its contract: backend/signatures.py, which has its grammar, reads arity, kinds, dtypes and sizes
// from it, and every launch is checked against them.
#define BP_DEV __device__ __forceinline__

typedef unsigned char u8;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// The type of sums and formulas: float for float and for anything narrower.
template<class T> struct Acc { typedef float type; };
template<> struct Acc<double> { typedef double type; };
template<class T> using acc = typename Acc<T>::type;

// to_acc: from the stored type to the one that is computed in; from_acc: back, rounded to the nearest.
BP_DEV float to_acc(u8 a) { return float(a); }
BP_DEV float to_acc(float a) { return a; }
BP_DEV double to_acc(double a) { return a; }
template<class T> BP_DEV T from_acc(acc<T> a) { return a; }

#ifdef BP_16_BIT  // only where a 16-bit type is used, because these headers take most of the compilation time
#include <cuda_bf16.h>
#include <cuda_fp16.h>
typedef __half f16;
typedef __nv_bfloat16 bf16;
BP_DEV float to_acc(f16 a) { return __half2float(a); }
BP_DEV float to_acc(bf16 a) { return __bfloat162float(a); }
template<> BP_DEV f16 from_acc<f16>(float a) { return __float2half_rn(a); }
template<> BP_DEV bf16 from_acc<bf16>(float a) { return __float2bfloat16_rn(a); }
#endif

// BP_ROLLED, before a grid-stride loop: to unroll it, the compiler would first divide 64-bit numbers. BP_UNROLLED, before
// a short loop over an array that is to lie in registers, which the compiler may otherwise find too long.
#ifdef __CUDACC__
#define BP_ROLLED _Pragma("unroll 1")
#define BP_UNROLLED _Pragma("unroll")
#else
#define BP_ROLLED
#define BP_UNROLLED
#endif

// V numbers that are loaded or stored by one instruction.
template<class T, int V> struct alignas(sizeof(T) * V) Vec { T at[V]; };
template<int V, class T> BP_DEV Vec<T, V> load(const T* from) { return *reinterpret_cast<const Vec<T, V>*>(from); }
template<class T, int V> BP_DEV void store(T* to, const Vec<T, V>& v) { *reinterpret_cast<Vec<T, V>*>(to) = v; }
template<int V, class A> BP_DEV Vec<A, V> filled(A a) {
  Vec<A, V> v;
  for (int k = 0; k < V; k++) v.at[k] = a;
  return v;
}

// tiny: the smallest normal number; most: the largest finite one.
template<class A> BP_DEV A tiny();
template<> BP_DEV float tiny<float>() { return 1.17549435e-38f; }
template<> BP_DEV double tiny<double>() { return 2.2250738585072014e-308; }
template<class A> BP_DEV A most();
template<> BP_DEV float most<float>() { return 3.402823466e+38f; }
template<> BP_DEV double most<double>() { return 1.7976931348623157e+308; }

#include "formulas.cuh"

struct Sum {
  template<class A> BP_DEV static A identity() { return A(0); }
  template<class A> BP_DEV static A of(A a, A b) { return a + b; }
};
struct Maximum {  // a NaN among the operands is the result, as in numpy.maximum
  template<class A> BP_DEV static A identity() { return -most<A>(); }
  template<class A> BP_DEV static A of(A a, A b) { return a > b || a != a ? a : b; }
};

// The index of this thread in its block, and the number of threads there.
BP_DEV int thread() { return int(threadIdx.y * blockDim.x + threadIdx.x); }
BP_DEV int threads() { return int(blockDim.x * blockDim.y); }

// Op over `lanes` neighbours of a warp, a power of two up to 32; each of them gets the result. All lanes of the warp
// have to take part.
template<class Op, class A> BP_DEV A lane_reduce(A a, int lanes) {
  for (int offset = lanes / 2; offset; offset /= 2) a = Op::of(a, __shfl_xor_sync(0xffffffffu, a, offset));
  return a;
}

// Op over the threads of a block, 32 k of them, k <= 32; every thread gets the result, in an order that depends on
// their number alone. All threads have to take part.
template<class Op, class A> BP_DEV A block_reduce(A a) {
  __shared__ A of_warp[32];
  const int lane = thread() & 31, warp = thread() >> 5;
  a = lane_reduce<Op>(a, 32);
  __syncthreads();  // the last call may still be reading of_warp
  if (lane == 0) of_warp[warp] = a;
  __syncthreads();
  return lane_reduce<Op>(lane < threads() >> 5 ? of_warp[lane] : Op::template identity<A>(), 32);
}

// True in all threads of the last of `blocks` blocks that come here with one ticket. What the others wrote before, it
// can read through volatile pointers, which bypass the cache of its own multiprocessor. So the partial sums of blocks
// are added up in the same launch, and always in one order, whichever block is last. The ticket is 0 before and after.
// One thread's fences, between barriers, hold for its whole block, at a fraction of the cost of a fence in each thread.
BP_DEV bool last_block(u32* ticket, u32 blocks) {
  __shared__ bool last;
  __syncthreads();
  if (thread() == 0) {
    __threadfence();
    last = atomicAdd(ticket, 1u) == blocks - 1;
    if (last) *ticket = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The sums of grid_sum: along an axis of the grid lie `blocks` blocks that share the ticket `line`. In each, add makes
// one sum of its threads' for those with first = 0; what the blocks left is read by a thread from `first` on.
struct AlongX {  // over all threads, which are 32 k in a block
  const u32 block = blockIdx.x, blocks = gridDim.x, line = blockIdx.z, first = thread(), step = threads();
  template<int W, class A> BP_DEV Vec<A, W> add(Vec<A, W> sum) const {
    for (int k = 0; k < W; k++) sum.at[k] = block_reduce<Sum>(sum.at[k]);
    return sum;
  }
};

// sum becomes its sum over the blocks along an axis, in the last of them to come here; true in the thread that has it.
// The order of additions depends on the sizes of grid and block alone. Each block leaves its sums in partial,
// [models, blocks, width], where those of this thread begin at `at`; a thread beyond the width has none.
template<class Along, int W, class A>
BP_DEV bool grid_sum(Vec<A, W>& sum, A* partial, u32* tickets, int at = 0, int width = W) {
  const Along along;
  const bool inside = at < width;
  sum = along.add(sum);
  if (along.blocks > 1) {
    A* const sums = partial + i64(blockIdx.z) * along.blocks * width + at;
    if (along.first == 0 && inside) store(sums + i64(along.block) * width, sum);
    if (!last_block(tickets + along.line, along.blocks)) return false;
    sum = filled<W>(A(0));
    if (inside)
      for (u32 block = along.first; block < along.blocks; block += along.step)
        for (int k = 0; k < W; k++) sum.at[k] += static_cast<const volatile A*>(sums)[i64(block) * width + k];
    sum = along.add(sum);
  }
  return along.first == 0 && inside;
}
