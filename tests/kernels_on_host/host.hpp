// Stands in for what CUDA builds in, so that a host C++17 compiler can run the kernel texts as they are.
//
// The threads of a block are fibers (fibers.hpp), or with REAL_THREADS host threads, for ThreadSanitizer (threads.hpp).
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>
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

inline void __threadfence() {}  // blocks share one thread, or one order of memory

inline unsigned atomicAdd(unsigned* at, unsigned by) { return __atomic_fetch_add(at, by, __ATOMIC_ACQ_REL); }

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}

template<class T> T __shfl_xor_sync(unsigned, T value, int offset) {
  T other;
  meet_warp(&value, &other, sizeof value, offset);
  return other;
}
