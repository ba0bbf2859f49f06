// What a system has for threads that wait for each other: to sleep until a number changes, a clock, and a beginning.
//
// Linux is where all this runs and is tested. What stands for macOS (__ulock, which its own C++ library sleeps by, from
// 10.12 on) and Windows (WaitOnAddress, from 8 on, linked with -lsynchronization) is written by their documentation and
// has been compiled, not run: it only needs trying.
#include "port.hpp"

#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#include <signal.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
extern "C" int __ulock_wait(u32 operation, void* address, u64 value, u32 timeout);
extern "C" int __ulock_wake(u32 operation, void* address, u64 value);
#endif
#endif

// Sleeps while `address` holds `value`, until somebody wakes it, or for no reason.
static void wait_on(u32* address, u32 value) {
#if defined(_WIN32)
  WaitOnAddress(address, &value, sizeof(value), INFINITE);
#elif defined(__APPLE__)
  __ulock_wait(1, address, value, 0);  // UL_COMPARE_AND_WAIT
#else
  syscall(SYS_futex, address, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#endif
}

// Wakes one of those who sleep there.
static void wake(u32* address) {
#if defined(_WIN32)
  WakeByAddressSingle(address);
#elif defined(__APPLE__)
  __ulock_wake(1, address, 0);
#else
  syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
#endif
}

static i64 nanoseconds() {
#if defined(_WIN32)
  LARGE_INTEGER now, per_second;
  QueryPerformanceCounter(&now), QueryPerformanceFrequency(&per_second);
  return i64(double(now.QuadPart) / double(per_second.QuadPart) * 1e9);
#else
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return i64(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
#endif
}

// Between two looks at memory.
static void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Starts a thread that runs for ever. Signals are for the threads of the program that we are part of.
#if defined(_WIN32)
static bool start_thread(DWORD (*run)(void*), void* number) {
  const HANDLE thread = CreateThread(nullptr, 0, run, number, 0, nullptr);
  return thread && CloseHandle(thread);
}
#else
static bool start_thread(void* (*run)(void*), void* number) {
  pthread_t thread;
  sigset_t every, before;
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before);
  const int refused = pthread_create(&thread, nullptr, run, number);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return !refused && !pthread_detach(thread);
}
#endif
