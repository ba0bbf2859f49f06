// A plan in one call, once or several times.
//
// Every thread goes through the whole list of operations and does its part of each. Where an operation needs the result
// of another thread, a barrier stands before it. With many members each thread takes one of them at a time through the
// whole list instead: what it works on stays in its core's cache, and nobody waits. After a program the threads spin for
// a moment, because the next step usually follows at once; then they sleep.
#include "port.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct KernelCall {
  Operation run;
  i64 parts;    // of how many threads; 1: the first does all of it
  i64 barrier;  // whether all threads have to be here before it begins
  Slot slots[29];
};
extern "C" const i64 bp_call_size = sizeof(KernelCall);

struct Pointer {
  i64 slot;  // among all of a program's calls, as numbers of 8 bytes
  i64 step;  // in bytes, from one member to the next
};

struct Program {
  const KernelCall* calls;
  i64 count;
  i64 threads;      // that work on it
  i64 limits_blas;  // whether the BLAS is limited to one thread meanwhile
  i64 adaptive;     // whether it is so short that the threads may not be worth it where other programs use the cores
  i64 parallel;     // whether an adaptive program uses the threads now
  i64 warmup;       // how many more runs are not typical, because the program is new or the threads were asleep
  double ns[2];     // how long a run takes, serial and parallel: a moving average; 0: not known
  i64 repeats;      // how many times a run goes through the calls
  i64 members;      // that are taken one by one; 0: each operation does all, and the fields below are not there
  i64 next;         // which of them is taken next
  KernelCall* own;  // [threads, count]: the calls of each thread, for one member
  const Pointer* pointers;  // to what is each member's own
  i64 pointer_count;
  i64* const* counters;  // that all members count alike: each of them begins at what they are before the run
  i64 counter_count;
  i64* counts;  // [1 + threads, room]: what the counters were; and each thread's, which its calls have in their place
  i64 room;
};

static const i64 MAX_THREADS = 256;
static const unsigned SPINS = 20000;  // looks at memory before a thread sleeps, some 0.5 ms
static const int WARMUP = 4;          // runs until the threads are awake
static const unsigned YIELD = 256;    // looks after which the other programs of the machine get a turn
extern "C" const i64 bp_max_threads = MAX_THREADS;

struct alignas(128) Counter {  // on a cache line of its own, and not on its neighbour's, which comes with it
  unsigned value;  // which begins at 0 again after 2^32, some hours of small steps
};
static Counter arrived, phase, done;  // at a barrier; how many barriers there were; who has finished the program
static Counter given[MAX_THREADS], asleep[MAX_THREADS];  // to each thread: how many programs; whether it sleeps
static Counter turn;                                     // 1 while a program runs on more than one thread
static Program* program;
static i64 workers;  // threads beside the one that calls

static unsigned read(const Counter& c) { return __atomic_load_n(&c.value, __ATOMIC_ACQUIRE); }
static void write(Counter& c, unsigned value) { __atomic_store_n(&c.value, value, __ATOMIC_RELEASE); }
static unsigned add(Counter& c, int by) { return __atomic_add_fetch(&c.value, by, __ATOMIC_SEQ_CST); }

// Between two looks at memory.
static void relax(unsigned look) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
  if (look % YIELD == YIELD - 1) sched_yield();
}

static void barrier(i64 all) {
  const unsigned now = read(phase);
  if (add(arrived, 1) == all) {
    write(arrived, 0);
    write(phase, now + 1);
    return;
  }
  for (unsigned look = 0; read(phase) == now; look++) relax(look);
}

static void run_parts(const Program& all, i64 me) {
  for (i64 repeat = 0; repeat < all.repeats; repeat++)
    for (const KernelCall *call = all.calls, *end = call + all.count; call != end; call++) {
      if (call->barrier || (repeat && call == all.calls)) barrier(all.threads);
      if (me < call->parts) call->run(call->slots, me, call->parts);
    }
}

// Takes members as long as there are some. What is done for each does not depend on the thread.
static void run_members(Program& all, i64 me) {
  KernelCall* const calls = all.own + me * all.count;
  i64 *const numbers = reinterpret_cast<i64*>(calls), *const counts = all.counts + (1 + me) * all.room;
  const i64* const of_first = reinterpret_cast<const i64*>(all.calls);
  for (i64 m; (m = __atomic_fetch_add(&all.next, 1, __ATOMIC_RELAXED)) < all.members;) {
    for (const Pointer *p = all.pointers, *end = p + all.pointer_count; p != end; p++)
      numbers[p->slot] = of_first[p->slot] + m * p->step;
    for (i64 k = 0; k < all.counter_count; k++) counts[k] = all.counts[k];
    for (i64 repeat = 0; repeat < all.repeats; repeat++)
      for (const KernelCall *call = calls, *end = call + all.count; call != end; call++) call->run(call->slots, 0, 1);
    for (i64 k = 0; m == 0 && k < all.counter_count; k++) *all.counters[k] = counts[k];
  }
}

static void run_share(Program& all, i64 me) { all.members ? run_members(all, me) : run_parts(all, me); }

// Numbers too small to be normal become 0 and count as 0, as on CUDA: with them processors are up to 100 times slower.
#if defined(__x86_64__)
static u64 flush_denormals() {
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040);
  return before;
}
static void unflush(u64 before) { __builtin_ia32_ldmxcsr(unsigned(before)); }
#elif defined(__aarch64__)
static u64 flush_denormals() {
  u64 before;
  asm volatile("mrs %0, fpcr" : "=r"(before));
  asm volatile("msr fpcr, %0" : : "r"(before | u64(1) << 24));
  return before;
}
static void unflush(u64 before) { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif

// A worker: it reads `program` only when one was given to it, which stays until it is done.
static void* work(void* number) {
  const i64 me = reinterpret_cast<i64>(number);
  flush_denormals();
  for (unsigned seen = 0;; seen++) {
    for (unsigned look = 0; read(given[me]) == seen; look++) {
      relax(look);
      if (look < SPINS) continue;
      add(asleep[me], 1);
      syscall(SYS_futex, &given[me].value, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
      add(asleep[me], -1);
      look = 0;
    }
    run_share(*program, me);
    add(done, 1);
  }
  return nullptr;
}

static void (*set_blas_threads)(int);
static int (*get_blas_threads)();
static pthread_mutex_t blas_mutex = PTHREAD_MUTEX_INITIALIZER;
static i64 limits;              // programs during which the BLAS is limited to one thread
static int usual_blas_threads;  // how many it has otherwise
extern "C" void bp_set_blas_threads(void* get, void* set) {
  get_blas_threads = reinterpret_cast<int (*)()>(get);
  set_blas_threads = reinterpret_cast<void (*)(int)>(set);
}

// A number that the user has set meanwhile stays.
static void restore_blas_threads() {
  if (get_blas_threads() == 1) set_blas_threads(usual_blas_threads);
}

// The child of a fork has none of the threads, and nothing runs in it.
static void after_fork() {
  write(arrived, 0), write(phase, 0), write(done, 0), write(turn, 0);
  for (i64 k = 0; k < MAX_THREADS; k++) write(given[k], 0), write(asleep[k], 0);
  workers = 0;
  pthread_mutex_init(&blas_mutex, nullptr);
  if (limits) restore_blas_threads();
  limits = 0;
}

static bool start_workers(i64 threads) {
  static bool registered = false;
  if (!registered) registered = pthread_atfork(nullptr, nullptr, after_fork) == 0;
  sigset_t every, before;
  sigfillset(&every);
  while (workers + 1 < threads && threads <= MAX_THREADS) {
    pthread_t thread;
    pthread_sigmask(SIG_SETMASK, &every, &before);  // signals are for the threads of the program that we are part of
    const int refused = pthread_create(&thread, nullptr, work, reinterpret_cast<void*>(workers + 1));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (refused) break;
    pthread_detach(thread);
    workers++;
  }
  return threads <= workers + 1;
}

static void run_parallel(Program& all) {
  program = &all;
  write(done, 0);
  for (i64 k = 1; k < all.threads; k++) {
    add(given[k], 1);
    if (__atomic_load_n(&asleep[k].value, __ATOMIC_SEQ_CST))
      syscall(SYS_futex, &given[k].value, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  run_share(all, 0);
  for (unsigned look = 0; read(done) != all.threads - 1; look++) relax(look);
}

static void run_serial(Program& all) {
  if (all.members) return run_members(all, 0);
  for (i64 repeat = 0; repeat < all.repeats; repeat++)
    for (const KernelCall *call = all.calls, *end = call + all.count; call != end; call++)
      for (i64 part = 0; part < call->parts; part++) call->run(call->slots, part, call->parts);
}

// Limits the BLAS to one thread when the first caller begins, and lifts the limit when the last one ends. `inside` says
// whether the caller has begun and not ended: Ctrl-C may keep Python from knowing.
extern "C" void bp_limit_blas_threads(i64 begin, i64* inside) {
  if (!set_blas_threads || *inside == begin) return;
  pthread_mutex_lock(&blas_mutex);
  *inside = begin;
  if (begin && limits++ == 0) usual_blas_threads = get_blas_threads(), set_blas_threads(1);
  if (!begin && limits && --limits == 0) restore_blas_threads();  // 0 in a child that was forked meanwhile
  pthread_mutex_unlock(&blas_mutex);
}

static double nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) * 1e9 + double(now.tv_nsec);
}

// On a busy machine a thread may wait at a barrier for milliseconds, for one that has lost its core. So a small program
// times itself, parallel and serial, and takes whichever was faster. The average of the other decays, so that it is
// tried again: after some hundred runs, or a few thousand where one of its runs took very long.
static void run_adaptive(Program& all) {
  const double began = nanoseconds();
  all.parallel ? run_parallel(all) : run_serial(all);
  const double took = nanoseconds() - began;
  if (all.warmup-- > 0) return;
  all.warmup = 0;
  double &current = all.ns[all.parallel], &other = all.ns[!all.parallel];
  current = current == 0 ? took : current + (took - current) / 8;
  other *= 0.999;
  if (other < current) all.parallel = !all.parallel, all.warmup = WARMUP;
}

// The parts of each operation, and what is done for a member, are the same whoever does them, and so are the results:
// where the threads are busy with another program, or not worth it, the caller does all.
extern "C" void bp_run(Program* all) {
  const u64 before = flush_denormals();
  i64 inside = 0;
  all->next = 0;
  for (i64 k = 0; k < all->counter_count; k++) all->counts[k] = *all->counters[k];
  if (all->limits_blas) bp_limit_blas_threads(1, &inside);
  if (all->threads > 1 && __atomic_exchange_n(&turn.value, 1, __ATOMIC_ACQUIRE) == 0) {
    if (!start_workers(all->threads))
      run_serial(*all);
    else if (all->adaptive)
      run_adaptive(*all);
    else
      run_parallel(*all);
    write(turn, 0);
  } else {
    run_serial(*all);
  }
  if (all->limits_blas) bp_limit_blas_threads(0, &inside);
  unflush(before);
}

// The compiler of this text.
extern "C" const char* bp_compiler() {
#if defined(__clang__)
  return "clang++ " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}
