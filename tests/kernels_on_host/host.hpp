// Stands in for what CUDA builds in, so that a host C++20 compiler can run the kernel texts: a block is as many host
// threads as it has CUDA threads, and barriers are real ones.
#include <barrier>
#include <math.h>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after another

struct Index { unsigned x, y, z; };
inline Index blockDim;
inline thread_local Index threadIdx;

struct Lanes {  // one warp: its barrier, and a slot a lane for shuffles
  std::barrier<> meet;
  double slot[32];
  explicit Lanes(int lanes) : meet(lanes) {}
};
inline std::vector<std::unique_ptr<Lanes>> warps;
inline std::unique_ptr<std::barrier<>> block_barrier;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }

template<class T> T __shfl_xor_sync(unsigned, T value, int offset) {
  Lanes& warp = *warps[threadIdx.x >> 5];
  const unsigned lane = threadIdx.x & 31;
  warp.slot[lane] = value;
  warp.meet.arrive_and_wait();
  const T other = T(warp.slot[lane ^ offset]);
  warp.meet.arrive_and_wait();
  return other;
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}

template<class Body> void run_block(int threads, Body body) {
  blockDim = {unsigned(threads), 1, 1};
  block_barrier = std::make_unique<std::barrier<>>(threads);
  warps.clear();
  for (int first = 0; first < threads; first += 32) warps.push_back(std::make_unique<Lanes>(32));
  std::vector<std::thread> running;
  for (int t = 0; t < threads; t++) running.emplace_back([=] { threadIdx = {unsigned(t), 0, 0}; body(t); });
  for (std::thread& thread : running) thread.join();
}
