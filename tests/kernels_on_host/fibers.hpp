// Threads as fibers: one runs until it has to wait for others, then the next. Nothing runs at the same time, so that
// a result that depends on the order of threads or blocks is wrong in some order, every time. In random order threads
// or warps also rest for a while, so that others run far ahead of them.
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <algorithm>
#include <memory>

// Shared memory: one for all blocks, as they run one after another; where they are mixed, each keeps a copy of it while
// others run. It begins poisoned. All fibers are one host thread, so what is thread_local they share, and it lies
// together. AddressSanitizer has to see each variable by itself.
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define SHARED
constexpr bool MIXABLE = false;
#else
#include <link.h>
#define SHARED thread_local
constexpr bool MIXABLE = true;
#endif

inline Index threadIdx, blockIdx, blockDim, gridDim;

enum { THREADS = 1, WARPS };

struct Block {
  Index index;
  int waiting = 0, round = 0;  // at the barrier, and how often all have met there
  std::vector<char> shared;
  unsigned resting = 0;  // who rests now and then, until the next barrier: nobody, THREADS or WARPS
};
struct Warp {
  int waiting = 0, round = 0, wakes = 0;
  unsigned char given[2][32][16];  // one for this meeting, one for those who have not yet read of the last
};
struct Fiber {
  static constexpr size_t STACK = 256 << 10;
  ucontext_t start;
  void* here[5];
  void* stack;
  Index index;
  Block* block;
  Warp* warp;
  int lane;
  int* until;  // the count that has to be other than `seen` before it goes on
  int seen;
  int wakes;  // in which round of the scheduler it goes on
  bool begun, done;
};

struct Range { char* start; size_t size; };
struct Scheduler {
  std::vector<std::unique_ptr<Fiber>> fibers;
  void* here[5];
  Fiber* running = nullptr;
  bool at_random = false;
  unsigned seed = 1;
  Body body = nullptr;
  const void* argument = nullptr;
  Block* present = nullptr;  // the block whose shared memory is in place
  Range shared = {nullptr, 0};
  const void* main_stack = nullptr;
  size_t main_size = 0;
  void* main_fake = nullptr;
};
inline Scheduler scheduler;

inline unsigned any_number() {  // xorshift: Marsaglia 2003
  unsigned& seed = scheduler.seed;
  seed ^= seed << 13, seed ^= seed >> 17;
  return seed ^= seed << 5;
}
template<class T> void shuffle(std::vector<T>& line) {
  for (size_t i = line.size(); i > 1; i--) std::swap(line[i - 1], line[any_number() % i]);
}

// GCC's own setjmp and longjmp, which save no more than they must: AddressSanitizer takes libc's longjmp for the end of
// all frames on a stack, and asks the kernel about it.
[[gnu::noinline, gnu::no_sanitize_address, noreturn]] inline void jump(void** to) { __builtin_longjmp(to, 1); }

// AddressSanitizer has to be told of every change of stacks.
inline void leave(void** fake, const void* stack, size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake, stack, size);
#else
  (void)fake, (void)stack, (void)size;
#endif
}
inline void arrive(void* fake, const void** from, size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, from, size);
#else
  (void)fake, (void)from, (void)size;
#endif
}

[[gnu::noinline, gnu::no_sanitize_address]] inline void wait_until(int& count) {
  Fiber& self = *scheduler.running;
  self.until = &count, self.seen = count;
  void* fake;
  leave(&fake, scheduler.main_stack, scheduler.main_size);
  if (!__builtin_setjmp(self.here)) jump(scheduler.here);
  arrive(fake, nullptr, nullptr);
}

inline void meet_block() {
  Block& block = *scheduler.running->block;
  if (++block.waiting == int(blockDim.x * blockDim.y * blockDim.z))
    block.waiting = 0, block.round++, block.resting = scheduler.at_random ? any_number() % 3 : 0;
  else
    wait_until(block.round);
}

inline void meet_warp(const void* given, void* received, size_t size, int offset) {
  const Fiber& self = *scheduler.running;
  Warp& warp = *self.warp;
  auto& slots = warp.given[warp.round & 1];
  memcpy(slots[self.lane], given, size);
  if (++warp.waiting == 32)
    warp.waiting = 0, warp.round++;
  else
    wait_until(warp.round);
  memcpy(received, slots[self.lane ^ offset], size);
}

[[gnu::no_sanitize_address]] inline void fiber_main() {
  arrive(nullptr, &scheduler.main_stack, &scheduler.main_size);
  scheduler.body(scheduler.argument);
  scheduler.running->done = true;
  leave(nullptr, scheduler.main_stack, scheduler.main_size);
  jump(scheduler.here);
}

inline Range shared_memory() {
  Range found = {nullptr, 0};
#ifndef __SANITIZE_ADDRESS__
  dl_iterate_phdr([](dl_phdr_info* info, size_t, void* range) {
    bool ours = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
      const ElfW(Phdr)& part = info->dlpi_phdr[i];
      const size_t at = size_t(&scheduler) - info->dlpi_addr;
      ours = ours || (part.p_type == PT_LOAD && at >= part.p_vaddr && at < part.p_vaddr + part.p_memsz);
    }
    for (int i = 0; ours && info->dlpi_tls_data && i < info->dlpi_phnum; i++)
      if (info->dlpi_phdr[i].p_type == PT_TLS)
        *static_cast<Range*>(range) = {static_cast<char*>(info->dlpi_tls_data), info->dlpi_phdr[i].p_memsz};
    return int(ours);
  }, &found);
#endif
  return found;
}

inline void place_shared(Block& block) {
  const auto [start, size] = scheduler.shared;
  if (scheduler.present == &block || !size) return;
  if (scheduler.present) scheduler.present->shared.assign(start, start + size);
  if (block.shared.empty()) block.shared.assign(size, char(0xff));
  memcpy(start, block.shared.data(), size);
  scheduler.present = &block;
}

[[gnu::noinline, gnu::no_sanitize_address]] inline void resume(Fiber& fiber) {
  place_shared(*fiber.block);
  threadIdx = fiber.index, blockIdx = fiber.block->index;
  scheduler.running = &fiber;
  void* fake;
  leave(&fake, fiber.stack, Fiber::STACK);
  if (!__builtin_setjmp(scheduler.here)) {
    if (fiber.begun) jump(fiber.here);
    fiber.begun = true;
    setcontext(&fiber.start);
  }
  arrive(fake, nullptr, nullptr);
}

inline Fiber& fiber_at(size_t i) {
  while (scheduler.fibers.size() <= i) {
    scheduler.fibers.push_back(std::make_unique<Fiber>());
    scheduler.fibers.back()->stack =
        mmap(nullptr, Fiber::STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (scheduler.fibers.back()->stack == MAP_FAILED) throw std::runtime_error("no memory for the stack of a fiber");
  }
  return *scheduler.fibers[i];
}

// Runs some blocks at once to their end.
inline void run_blocks(const std::vector<Index>& indices, const Order& order) {
  const int threads = int(blockDim.x * blockDim.y * blockDim.z), warps = (threads + 31) / 32;
  std::vector<Block> blocks(indices.size());
  std::vector<Warp> all_warps(indices.size() * warps);
  std::vector<Fiber*> line;
  for (size_t b = 0; b < blocks.size(); b++) {
    blocks[b].index = indices[b];
    blocks[b].resting = scheduler.at_random ? any_number() % 3 : 0;
    for (int t = 0; t < threads; t++) {
      Fiber& fiber = fiber_at(b * threads + t);
      fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
      fiber.block = &blocks[b], fiber.warp = &all_warps[b * warps + t / 32], fiber.lane = t % 32;
      fiber.begun = fiber.done = false, fiber.until = nullptr, fiber.wakes = 0;
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = fiber.stack, fiber.start.uc_stack.ss_size = Fiber::STACK;
      fiber.start.uc_link = nullptr;
      makecontext(&fiber.start, fiber_main, 0);
      line.push_back(&fiber);
    }
  }
  scheduler.present = nullptr;
  if (order.threads == Order::REVERSE) std::reverse(line.begin(), line.end());
  for (int now = 0; !line.empty(); now++) {
    if (scheduler.at_random) shuffle(line);
    bool moved = false;
    for (Fiber* fiber : line) {
      if (fiber->until && *fiber->until == fiber->seen) continue;
      moved = true;
      if (now < fiber->wakes || now < fiber->warp->wakes) continue;
      if (fiber->block->resting == THREADS && any_number() % 8 == 0) fiber->wakes = now + any_number() % 64;
      if (fiber->block->resting == WARPS && any_number() % 256 == 0) fiber->warp->wakes = now + any_number() % 64;
      if (now < fiber->wakes || now < fiber->warp->wakes) continue;
      fiber->until = nullptr;
      resume(*fiber);
    }
    if (!moved)
      throw std::runtime_error(std::to_string(line.size()) + " of " + std::to_string(threads * blocks.size()) +
                               " threads wait at a barrier or a shuffle that the others do not reach");
    line.erase(std::remove_if(line.begin(), line.end(), [](Fiber* fiber) { return fiber->done; }), line.end());
  }
}

inline void launch(Index grid, Index block, const Order& order, Body body, const void* argument) {
  blockDim = block, gridDim = grid, scheduler.body = body, scheduler.argument = argument;
  scheduler.shared = shared_memory();
  std::vector<Index> all;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) all.push_back({x, y, z});
  if (order.blocks == Order::REVERSE) std::reverse(all.begin(), all.end());
  scheduler.at_random = order.threads == Order::RANDOM;
  scheduler.seed = order.seed ? order.seed : 1;
  if (order.blocks == Order::MIXED && MIXABLE) return run_blocks(all, order);
  for (const Index& index : all) run_blocks({index}, order);
}
