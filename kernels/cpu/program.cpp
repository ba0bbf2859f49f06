// A plan in one call: its operations one after the other, each split among the threads; and the products.
//
// Every thread walks through the whole list and does its part of each operation. Where an operation needs what another
// thread does before it, a barrier stands in front of it. After a program the threads spin for a moment, because mostly
// the next step follows at once; then they sleep.
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
extern "C" const i64 bp_step_size = sizeof(KernelCall);

struct Program {
  const KernelCall* steps;
  i64 count;
  i64 threads;  // that work on it
  i64 quiet;    // whether the library of the products may use no threads of its own meanwhile
  i64 small;    // whether it is so short that the threads may not be worth it, where other programs take the processors
  i64 with;     // whether they take part in it now
  i64 unsettled;  // how many runs more are not typical, since the program is new or the threads were asleep
  double ns[2];  // what a run takes without them and with them, an average of the last ones; 0: not known
};

static const i64 MOST = 256;          // threads
static const unsigned SPINS = 20000;  // looks at memory before a thread sleeps, some 0.5 ms
static const int UNSETTLED = 4;       // runs after which the threads are awake
static const unsigned POLITE = 256;   // looks after which the other programs of the machine get a turn
extern "C" const i64 bp_most_threads = MOST;

struct alignas(128) Counter {  // on a cache line of its own, and not on its neighbour's, which comes with it
  unsigned value;  // which begins at 0 again after 2^32, some hours of small steps
};
static Counter arrived, phase, done;  // at a barrier; how many barriers there were; who has finished the program
static Counter given[MOST], asleep[MOST];  // to each thread: how many programs; whether it sleeps
static Counter turn;                       // 1 while a program runs on more than one thread
static const Program* program;
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
  if (look % POLITE == POLITE - 1) sched_yield();
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

static void walk(const Program& all, i64 me) {
  for (const KernelCall *s = all.steps, *end = s + all.count; s != end; s++) {
    if (s->barrier) barrier(all.threads);
    if (me < s->parts) s->run(s->slots, me, s->parts);
  }
}

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

// A worker's life. It reads `program` only when one was given to it, and that stays until it is done.
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
    walk(*program, me);
    add(done, 1);
  }
  return nullptr;
}

static void (*set_blas_threads)(int);
static int (*get_blas_threads)();
static pthread_mutex_t quieting = PTHREAD_MUTEX_INITIALIZER;
static i64 quiet;  // programs during which the BLAS has one thread
static int loud;   // how many it has otherwise

// What the user has set meanwhile stays.
static void speak_up() {
  if (get_blas_threads() == 1) set_blas_threads(loud);
}

// The child of a fork has none of the threads, and nothing runs in it.
static void after_fork() {
  write(arrived, 0), write(phase, 0), write(done, 0), write(turn, 0);
  for (i64 k = 0; k < MOST; k++) write(given[k], 0), write(asleep[k], 0);
  workers = 0;
  pthread_mutex_init(&quieting, nullptr);
  if (quiet) speak_up();
  quiet = 0;
}

static bool start_workers(i64 threads) {
  static bool told = false;
  if (!told) told = pthread_atfork(nullptr, nullptr, after_fork) == 0;
  sigset_t every, before;
  sigfillset(&every);
  while (workers + 1 < threads && threads <= MOST) {
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

static void run_parallel(const Program& all) {
  program = &all;
  write(done, 0);
  for (i64 k = 1; k < all.threads; k++) {
    add(given[k], 1);
    if (__atomic_load_n(&asleep[k].value, __ATOMIC_SEQ_CST))
      syscall(SYS_futex, &given[k].value, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  walk(all, 0);
  for (unsigned look = 0; read(done) != all.threads - 1; look++) relax(look);
}

static void run_serial(const Program& all) {
  for (const KernelCall *s = all.steps, *end = s + all.count; s != end; s++)
    for (i64 part = 0; part < s->parts; part++) s->run(s->slots, part, s->parts);
}

// The first that comes makes the library of the products work on one thread, the last that goes undoes it. `inside`
// says whether the caller has come and not gone: Ctrl-C may keep Python from knowing.
extern "C" void bp_limit_blas_threads(i64 begin, i64* inside) {
  if (!set_blas_threads || *inside == begin) return;
  pthread_mutex_lock(&quieting);
  *inside = begin;
  if (begin && quiet++ == 0) loud = get_blas_threads(), set_blas_threads(1);
  if (!begin && quiet && --quiet == 0) speak_up();  // 0 in a child that was forked meanwhile
  pthread_mutex_unlock(&quieting);
}

static double nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) * 1e9 + double(now.tv_nsec);
}

// On a busy machine a thread that waits at a barrier for one that has lost its processor waits for milliseconds. So a
// small program keeps account of what it takes with the threads and without, and goes on in the way that was faster.
// What is known of the other way fades, so that it is tried again: after some hundred runs, or a few thousand where one
// of its runs took very long.
static void run_adaptive(Program& all) {
  const double began = nanoseconds();
  all.with ? run_parallel(all) : run_serial(all);
  const double took = nanoseconds() - began;
  if (all.unsettled-- > 0) return;
  all.unsettled = 0;
  double &here = all.ns[all.with], &there = all.ns[!all.with];
  here = here == 0 ? took : here + (took - here) / 8;
  there *= 0.999;
  if (there < here) all.with = !all.with, all.unsettled = UNSETTLED;
}

// The parts of each operation are the same whoever does them, and so are the results: where the threads are at work for
// somebody else, or not worth it, the caller does all parts.
extern "C" void bp_run(Program* all) {
  const u64 before = flush_denormals();
  i64 inside = 0;
  if (all->quiet) bp_limit_blas_threads(1, &inside);
  if (all->threads > 1 && __atomic_exchange_n(&turn.value, 1, __ATOMIC_ACQUIRE) == 0) {
    if (!start_workers(all->threads))
      run_serial(*all);
    else if (all->small)
      run_adaptive(*all);
    else
      run_parallel(*all);
    write(turn, 0);
  } else {
    run_serial(*all);
  }
  if (all->quiet) bp_limit_blas_threads(0, &inside);
  unflush(before);
}

// Which compiler this is.
extern "C" const char* bp_compiler() {
#if defined(__clang__)
  return "clang++ " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

// Products -----------------------------------------------------------------------------------------------------------

// The product of the BLAS that NumPy brought, whose sizes are int or long long.
typedef void (*Gemm)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
typedef void (*Gemm64)(int, int, int, i64, i64, i64, float, const float*, i64, const float*, i64, float, float*, i64);
static Gemm gemm;
static Gemm64 gemm64;
extern "C" void bp_set_blas(void* product, i64 wide, void* get_threads, void* set_threads) {
  gemm = wide ? nullptr : reinterpret_cast<Gemm>(product);
  gemm64 = wide ? reinterpret_cast<Gemm64>(product) : nullptr;
  get_blas_threads = reinterpret_cast<int (*)()>(get_threads);
  set_blas_threads = reinterpret_cast<void (*)(int)>(set_threads);
}

static const int BY_ROWS = 101, PLAIN = 111, TRANSPOSED = 112;  // cblas.h

// c = a b, or a block of it. From one row of a, b, c to the next, or one column where transposed, lie so many numbers.
BP_DEV void multiply_matrices(
    const float* a, const float* b, float* c, i64 m, i64 n, i64 k, i64 a_apart, i64 b_apart, i64 c_apart,
    i64 a_transposed, i64 b_transposed) {
  const int ta = a_transposed ? TRANSPOSED : PLAIN, tb = b_transposed ? TRANSPOSED : PLAIN;
  if (!m || !n) return;
  if (gemm64)
    gemm64(BY_ROWS, ta, tb, m, n, k, 1, a, a_apart, b, b_apart, 0, c, c_apart);
  else
    gemm(BY_ROWS, ta, tb, int(m), int(n), int(k), 1, a, int(a_apart), b, int(b_apart), 0, c, int(c_apart));
}

// c = a b, where the rows of a and c are those of a minibatch: a part has some of them.
BP_CPU void matmul_by_rows(
    const float* a,  // [models, m, k] by rows
    const float* b,  // [models, k, n] [n, k] where it is transposed
    float* c,        // [models, m, n] by rows
    i64 a_step, i64 b_step, i64 c_step, i64 models, i64 m, i64 n, i64 k, i64 b_transposed, i64 part, i64 parts) {
  const Range r = rows_of(m, part, parts);
  for (i64 model = 0; model < models; model++, a += a_step, b += b_step, c += c_step)
    multiply_matrices(
        a + r.begin * k, b, c + r.begin * n, r.end - r.begin, n, k, k, b_transposed ? k : n, n, 0, b_transposed);
}

// c = a b: a part has some of the models, or where these are few, a block of rows or of columns, whichever are more.
BP_CPU void matmul(
    const float* a,  // [models, m, k] [k, m] where it is transposed
    const float* b,  // [models, k, n] [n, k] where it is transposed
    float* c,        // [models, m, n]
    i64 a_step, i64 b_step, i64 c_step, i64 models, i64 m, i64 n, i64 k, i64 a_transposed, i64 b_transposed, i64 part,
    i64 parts) {
  const i64 a_apart = a_transposed ? m : k, b_apart = b_transposed ? k : n, each = models >= parts, wide = m < n;
  const Range chosen = each ? part_of(models, part, parts, 1) : Range{0, models};
  const Range rows = each || wide ? Range{0, m} : part_of(m, part, parts, 16);
  const Range columns = each || !wide ? Range{0, n} : part_of(n, part, parts, 16);
  for (i64 model = chosen.begin; model < chosen.end; model++)
    multiply_matrices(
        a + model * a_step + rows.begin * (a_transposed ? 1 : a_apart),
        b + model * b_step + columns.begin * (b_transposed ? b_apart : 1),
        c + model * c_step + rows.begin * n + columns.begin, rows.end - rows.begin, columns.end - columns.begin, k,
        a_apart, b_apart, n, a_transposed, b_transposed);
}
