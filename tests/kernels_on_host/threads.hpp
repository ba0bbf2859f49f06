// Threads as host threads that run at the same time, with POSIX barriers, which ThreadSanitizer understands (it missed
// the removal of a barrier where these were std::barrier). Blocks run one after another.
#include <pthread.h>
#include <memory>
#include <thread>

#define SHARED

inline thread_local Index threadIdx;
inline Index blockIdx, blockDim, gridDim;

struct Barrier {
  pthread_barrier_t barrier;
  explicit Barrier(int count) { pthread_barrier_init(&barrier, nullptr, unsigned(count)); }
  ~Barrier() { pthread_barrier_destroy(&barrier); }
  Barrier(const Barrier&) = delete;
  void meet() { pthread_barrier_wait(&barrier); }
};
struct Warp {
  Barrier all{32};
  unsigned char given[32][16];
};
inline std::unique_ptr<Barrier> whole_block;
inline std::vector<std::unique_ptr<Warp>> warps;
inline thread_local int place;

inline void meet_block() { whole_block->meet(); }

inline void meet_warp(const void* given, void* received, size_t size, int offset) {
  Warp& warp = *warps[place / 32];
  memcpy(warp.given[place % 32], given, size);
  warp.all.meet();
  memcpy(received, warp.given[place % 32 ^ offset], size);
  warp.all.meet();
}

inline void launch(Index grid, Index block, const Order&, Body body, const void* argument) {
  blockDim = block, gridDim = grid;
  const int threads = int(block.x * block.y * block.z);
  whole_block = std::make_unique<Barrier>(threads);
  warps.clear();
  for (int first = 0; first < threads; first += 32) warps.push_back(std::make_unique<Warp>());
  const auto thread = [&](int t) {
    threadIdx = {t % block.x, t / block.x % block.y, t / (block.x * block.y)}, place = t;
    for (unsigned z = 0; z < grid.z; z++)
      for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
          whole_block->meet();  // the block before is done
          if (t == 0) blockIdx = {x, y, z};
          whole_block->meet();
          body(argument);
        }
  };
  std::vector<std::thread> running;
  for (int t = 0; t < threads; t++) running.emplace_back(thread, t);
  for (std::thread& one : running) one.join();
}
