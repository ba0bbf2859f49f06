// Stands in for what CUDA builds in, so that a host C++17 compiler can run the kernel texts as they are.
//
// The threads of a block are fibers (fibers.hpp), or with REAL_THREADS host threads, for ThreadSanitizer (threads.hpp).
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct Index { unsigned x, y, z; };

struct Order {
  enum { FORWARD, REVERSE, RANDOM, MIXED = RANDOM };
  int threads;  // of a block: forward, reverse or random
  int blocks;   // one after another, forward or in reverse, or all at once
  unsigned seed;
};

typedef void (*Body)(const void* argument);  // what each thread does
extern const Body kernels[];                 // of a program

template<auto kernel> struct Launch;
template<class... P, void (*kernel)(P...)> struct Launch<kernel> {
  static void run(const void* slots) { call(static_cast<const int64_t*>(slots), std::index_sequence_for<P...>()); }
  template<size_t... I> static void call(const int64_t* slots, std::index_sequence<I...>) {
    kernel(*reinterpret_cast<const P*>(slots + I)...);
  }
};

// What a thread asks of its block. Both return when all that have to come have come.
void meet_block();
void meet_warp(const void* given, void* received, size_t size, int offset);

#ifdef REAL_THREADS
#include "threads.hpp"
#else
#include "fibers.hpp"
#endif

#define __global__ inline
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static SHARED
#define __syncthreads meet_block

// What a launch gives each block beside its variables: memory by itself, so that AddressSanitizer sees each step out of it.
inline std::vector<std::unique_ptr<char[]>> memory_of_blocks;
inline void give_memory(Index grid, size_t bytes) {
  memory_of_blocks.clear();
  for (size_t blocks = bytes ? size_t(grid.x) * grid.y * grid.z : 0; blocks; blocks--) {
    memory_of_blocks.emplace_back(new char[bytes]);
    memset(memory_of_blocks.back().get(), 0xff, bytes);
  }
}
#define BP_BLOCK_MEMORY
inline void* block_memory() {
  return memory_of_blocks[(size_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x].get();
}

inline void __threadfence() {}  // blocks share one thread, or one order of memory

// Of half turns.
inline double cospi(double a) { return cos(M_PI * remainder(a, 2)); }
inline double sinpi(double a) { return sin(M_PI * remainder(a, 2)); }
inline float cospi(float a) { return float(cospi(double(a))); }
inline float sinpi(float a) { return float(sinpi(double(a))); }
inline void sincospi(double a, double* sine, double* cosine) { *sine = sinpi(a), *cosine = cospi(a); }
inline void sincospif(float a, float* sine, float* cosine) { *sine = sinpi(a), *cosine = cospi(a); }

inline unsigned atomicAdd(unsigned* at, unsigned by) { return __atomic_fetch_add(at, by, __ATOMIC_ACQ_REL); }

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}

template<class T> T __shfl_xor_sync(unsigned, T value, int offset) {
  T other;
  meet_warp(&value, &other, sizeof value, offset);
  return other;
}

template<class T> T __shfl_sync(unsigned mask, T value, int from) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  return __shfl_xor_sync(mask, value, from ^ int(thread % 32));
}
