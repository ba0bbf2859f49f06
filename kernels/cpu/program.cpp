// A plan in one call, once or several times.
//
// Barriers cut the list of operations into segments: each operation is done in parts, and a segment's part is that part
// of all its operations, one after the other. A thread begins with the part of its own number. One that is done with it
// takes what no other has begun, so that a thread which has lost its core to another program holds up only what it was
// at; then it waits for the others, and the last of them begins the next segment. With many members each thread takes
// one of them at a time through the whole list instead: what it works on stays in its core's cache, and nobody waits.
//
// The parts of each operation, and what is done for a member, are the same whoever does them, and so are the results.
#include "waiting.hpp"

struct KernelCall {
  Operation run;
  i64 parts;  // of how many threads; 1: the first does all of it
  Slot slots[30];
};
extern "C" const i64 bp_call_size = sizeof(KernelCall);

struct Segment {
  i64 begin, end;  // its calls
  i64 parts;       // the most that one of them has
};

struct Pointer {
  i64 slot;  // among all of a program's calls, as numbers of 8 bytes
  i64 step;  // in bytes, from one member to the next
};

struct Program {
  const KernelCall* calls;
  i64 count;
  const Segment* segments;
  i64 segment_count;
  i64 threads;      // that may work on it
  i64 level;        // how many threads work on it now
  i64 trials;       // how many of the next runs are on half of them
  i64 due;          // ns of runs until such trials
  i64 rest;         // ns of runs until twice as many threads
  i64 usual;        // ns of a run, a moving average; 0: not known
  i64 fewer;        // ns of a run on half of the threads; 0: not known
  i64 lost;         // ns by which the runs were slower than those on half of the threads
  i64 late;         // in how many of 1,000 runs, on average, the caller did a part for a thread that was late
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
  const i64* row_slots;  // of blocks of rows, which are members then: the slots that say how many rows one has
  i64 row_slot_count;
  i64 rows;   // of all of them
  i64 block;  // of each, and what is left of the last
};

static const i64 MAX_THREADS = 255;
static const i64 SPIN = 50'000;     // ns that a thread looks at memory before it sleeps: to wake one takes as long
static const i64 PATIENCE = 1'000;  // ns that it waits for another to begin its part
static const int LOOKS = 8;         // at memory between two at the clock
static const i64 TRIALS = 2;        // runs, of which the last counts: before it memory is in other cores' caches
static const i64 APART = 200;       // times as long as such a run it is until the next trials
static const i64 LONG = 500'000, OFTEN = 250;  // ns of a run, and how many are late, from which on trials are worth it
static const i64 LIMIT = 500'000, RUNS = 2;           // ns, and runs, that may be lost until fewer threads go on
static const i64 CREDIT = 10'000'000;                 // ns that were won and count against it: a hiccup is no reason
static const i64 REPAID = 25, LONGEST_REST = 500'000'000;  // times what was lost, and ns, until more threads are tried again
extern "C" const i64 bp_max_threads = MAX_THREADS;

// The segment that is worked on: its number, which only grows, its parts, 0 between two programs, and how many threads
// are to do them, as one number, so that a thread that was late never takes one for another.
static u64 segment(u64 number, i64 parts, i64 level) { return number << 16 | u64(parts) << 8 | u64(level); }
static u64 number_of(u64 segment) { return segment >> 16; }
static i64 parts_of(u64 segment) { return i64(segment >> 8 & 255); }
static i64 level_of(u64 segment) { return i64(segment & 255); }

struct alignas(128) Current {  // on a cache line of its own, and not on its neighbour's, which comes with it
  u64 segment;
};
struct alignas(128) Job {  // is read by who has a part of a segment: until that is done, it is not over
  Program* program;
  u64 first;  // the number of its first segment
};
struct alignas(128) Claim {
  u64 number;  // of the last segment whose part was begun
};
struct alignas(128) Arrived {
  u64 parts;  // of the segment that are done
};
static Current current;
static Job job;
static Claim claims[MAX_THREADS];
static Arrived arrived;
static u32 asleep[MAX_THREADS];  // which threads sleep, or are about to
static u32 turn;                 // 1 while a program runs on more than one thread
static i64 workers;              // threads beside the one that calls
static bool helped;              // whether the one that calls has done a part of another in this run

template <class T> static T read(const T& from) { return __atomic_load_n(&from, __ATOMIC_SEQ_CST); }
template <class T> static void write(T& to, T value) { __atomic_store_n(&to, value, __ATOMIC_RELEASE); }
template <class T> static T exchange(T& at, T value) { return __atomic_exchange_n(&at, value, __ATOMIC_SEQ_CST); }

// Begins a segment, or ends the program: then only the caller has to know.
static void publish(u64 now) {
  exchange(current.segment, now);
  const i64 all = parts_of(now) < level_of(now) ? parts_of(now) : level_of(now);
  for (i64 k = 0; k < (all ? all : 1); k++)
    if (read(asleep[k]) && exchange(asleep[k], 0u)) wake(&asleep[k]);
}

// Takes members as long as there are some. What is done for each does not depend on the thread.
static void run_members(Program& all, i64 me) {
  KernelCall* const calls = all.own + me * all.count;
  i64 *const numbers = reinterpret_cast<i64*>(calls), *const counts = all.counts + (1 + me) * all.room;
  const i64* const of_first = reinterpret_cast<const i64*>(all.calls);
  for (i64 m; (m = __atomic_fetch_add(&all.next, 1, __ATOMIC_RELAXED)) < all.members;) {
    for (const Pointer *p = all.pointers, *end = p + all.pointer_count; p != end; p++)
      numbers[p->slot] = of_first[p->slot] + m * p->step;
    const i64 left = all.rows - m * all.block;
    for (i64 k = 0; k < all.row_slot_count; k++) numbers[all.row_slots[k]] = left < all.block ? left : all.block;
    for (i64 k = 0; k < all.counter_count; k++) counts[k] = all.counts[k];
    for (i64 repeat = 0; repeat < all.repeats; repeat++)
      for (const KernelCall *call = calls, *end = call + all.count; call != end; call++) call->run(call->slots, 0, 1);
    for (i64 k = 0; m == 0 && k < all.counter_count; k++) *all.counters[k] = counts[k];
  }
}

// Does one part of the segment if nobody has begun it: returns whether.
static bool take_part(u64 now, i64 part) {
  const u64 number = number_of(now);
  u64 last = read(claims[part].number);
  if (last >= number ||
      !__atomic_compare_exchange_n(&claims[part].number, &last, number, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
    return false;
  Program& all = *job.program;
  const u64 next = number - job.first + 1, count = u64(all.segment_count);
  i64 parts = 0;
  if (all.members) {
    run_members(all, part);
  } else {
    const Segment& own = all.segments[(next - 1) % count];
    for (const KernelCall *call = all.calls + own.begin, *end = all.calls + own.end; call != end; call++)
      if (part < call->parts) call->run(call->slots, part, call->parts);
    if (next < count * u64(all.repeats)) parts = all.segments[next % count].parts;
  }
  // From here on the program may be over.
  if (__atomic_add_fetch(&arrived.parts, 1, __ATOMIC_SEQ_CST) < u64(parts_of(now))) return true;
  write(arrived.parts, u64(0));
  publish(segment(number + 1, parts, level_of(now)));
  return true;
}

// Takes part until the program is over; a worker, me > 0, for ever.
static void take_part_in_all(i64 me) {
  i64 patience = PATIENCE, idle = 0;  // since when it has had no part; 0: it has one
  for (;;) {
    const u64 now = read(current.segment);
    const i64 parts = parts_of(now), level = level_of(now);
    if (!parts && !me) return;
    bool took = false;
    for (i64 part = me; me < level && part < parts; part += level) took |= take_part(now, part);
    i64 began = 0;
    for (bool looked = me >= level; !took && read(current.segment) == now;) {
      for (int look = 0; look < LOOKS && read(current.segment) == now; look++) relax();
      if (read(current.segment) != now) break;
      const i64 clock = nanoseconds();
      if (began == 0) began = clock;
      if (idle == 0) idle = clock;
      if (!looked && clock - began >= patience) {
        looked = true;
        for (i64 part = 0; part < parts; part++) took |= take_part(now, part);
        patience = took ? 0 : PATIENCE;
        if (took && !me) helped = true;
      } else if (clock - idle >= SPIN) {
        exchange(asleep[me], 1u);
        if (read(current.segment) == now) wait_on(&asleep[me], 1);
        write(asleep[me], 0u);
      }
    }
    if (took) idle = 0;
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

#if defined(_WIN32)
static DWORD work(void* number) {
#else
static void* work(void* number) {
#endif
  flush_denormals();
  take_part_in_all(reinterpret_cast<i64>(number));
  return 0;
}

static void (*set_blas_threads)(int);
static int (*get_blas_threads)();
static u32 blas_lock;           // 0: free, 1: held, 2: held, and somebody may sleep
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

#if !defined(_WIN32)
// The child of a fork has none of the threads, and nothing runs in it.
static void after_fork() {
  arrived.parts = 0, turn = 0, blas_lock = 0, workers = 0;
  current.segment = segment(number_of(current.segment) + 1, 0, 0);
  for (u32& one : asleep) one = 0;
  if (limits) restore_blas_threads();
  limits = 0;
}
#endif

static bool start_workers(i64 threads) {
#if !defined(_WIN32)
  static bool registered = false;
  if (!registered) registered = pthread_atfork(nullptr, nullptr, after_fork) == 0;
#endif
  while (workers + 1 < threads && threads <= MAX_THREADS) {
    if (!start_thread(work, reinterpret_cast<void*>(workers + 1))) break;
    workers++;
  }
  return threads <= workers + 1;
}

static void run_serial(Program& all) {
  if (all.members) return run_members(all, 0);
  for (i64 repeat = 0; repeat < all.repeats; repeat++)
    for (const KernelCall *call = all.calls, *end = call + all.count; call != end; call++)
      for (i64 part = 0; part < call->parts; part++) call->run(call->slots, part, call->parts);
}

static void run_parallel(Program& all, i64 level) {
  job.program = &all, job.first = number_of(current.segment) + 1;
  publish(segment(job.first, all.members ? all.threads : all.segments->parts, level));
  take_part_in_all(0);
}

// Limits the BLAS to one thread when the first caller begins, and lifts the limit when the last one ends. `inside` says
// whether the caller has begun and not ended: Ctrl-C may keep Python from knowing.
extern "C" void bp_limit_blas_threads(i64 begin, i64* inside) {
  if (!set_blas_threads || *inside == begin) return;
  if (exchange(blas_lock, 1u))
    while (exchange(blas_lock, 2u)) wait_on(&blas_lock, 2);
  *inside = begin;
  if (begin && limits++ == 0) usual_blas_threads = get_blas_threads(), set_blas_threads(1);
  if (!begin && limits && --limits == 0) restore_blas_threads();  // 0 in a child that was forked meanwhile
  if (exchange(blas_lock, 0u) == 2) wake(&blas_lock);
}

// Runs a program on as many threads as are worth it: on a busy machine they wait for one that has lost its core, and a
// small program may be faster in one core's cache. Now and then a few runs on half of the threads tell what these take;
// where a run is long, and would be twice as long, only when threads were late.
// As soon as more than LIMIT was lost against that, half of them go on, until it is repaid.
static void run_adaptive(Program& all) {
  const i64 half = (all.level + 1) / 2, level = all.trials ? half : all.level;
  const i64 began = nanoseconds();
  helped = false;
  level > 1 ? run_parallel(all, level) : run_serial(all);
  const i64 took = nanoseconds() - began;
  if (all.trials) {
    if (--all.trials) return;
    all.fewer = all.fewer > 0 ? (all.fewer + took) / 2 : took;
    all.due = APART * took;
    return;
  }
  all.usual = all.usual > 0 ? all.usual + (took - all.usual) / 8 : took;
  all.due -= took, all.rest -= took;
  all.late += ((helped ? 1000 : 0) - all.late) / 8;
  if (level > 1 && all.fewer > 0) all.lost += took - all.fewer;
  if (all.lost < -CREDIT) all.lost = -CREDIT;
  if (all.lost > LIMIT && all.lost > RUNS * all.fewer) {
    all.rest = all.lost * REPAID < LONGEST_REST ? all.lost * REPAID : LONGEST_REST;
    all.level = half, all.usual = all.fewer, all.fewer = all.lost = 0;
  } else if (level < all.threads && all.rest <= 0) {
    all.level = 2 * level < all.threads ? 2 * level : all.threads;
    all.fewer = all.usual, all.usual = all.lost = 0, all.due = APART * all.fewer;
  }
  if (all.level > 1 && all.due <= 0 && (all.usual < LONG || all.late > OFTEN)) all.trials = TRIALS;
}

// Where the threads are busy with another program, the caller does all.
extern "C" void bp_run(Program* all) {
  const u64 before = flush_denormals();
  i64 inside = 0;
  all->next = 0;
  for (i64 k = 0; k < all->counter_count; k++) all->counts[k] = *all->counters[k];
  bp_limit_blas_threads(1, &inside);
  if (all->threads > 1 && exchange(turn, 1u) == 0) {
    start_workers(all->threads) ? run_adaptive(*all) : run_serial(*all);
    write(turn, 0u);
  } else {
    run_serial(*all);
  }
  bp_limit_blas_threads(0, &inside);
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
