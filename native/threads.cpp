#include "threads.h"

#include <pthread.h>

#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ellm {
namespace {

// About 50 µs: longer than what Python does between two operations of a step.
constexpr int kSpins = 1 << 11;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Threads &Threads::shared() {
  // Never destroyed: threads may still wait when the process ends.  A forked child has none.
  static auto *threads = [] {
    pthread_atfork(nullptr, nullptr, [] { new (&Threads::shared()) Threads; });
    return new Threads;
  }();
  return *threads;
}

void Threads::resize(int count) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (count == this->count()) return;
  stopping_ = true;
  turn_.fetch_add(1, std::memory_order_release);
  turn_.notify_all();
  for (auto &worker : workers_) worker.join();
  workers_.clear();
  stopping_ = false;
  for (int thread = 1; thread < count; ++thread)
    workers_.emplace_back([this, thread, turn = turn_.load()] { serve(thread, turn); });
}

void Threads::run(int tasks, int limit, Work work, const void *context) {
  std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (tasks == 1 || !lock || workers_.empty()) {
    for (int task = 0; task < tasks; ++task) work(context, task, 0);
    return;
  }
  tasks_ = tasks;
  limit_ = limit;
  work_ = work;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  open_ = true;
  turn_.fetch_add(1);
  turn_.notify_all();
  work_off(0);
  // Whoever has not begun by now has nothing to do, and nobody waits for it to wake up: it either
  // sees that the work is over, or is seen here.
  open_ = false;
  for (int spin = 0; active_ != 0; ++spin) {
    pause();
    if (spin > kSpins) std::this_thread::yield();
  }
}

void Threads::work_off(int thread) {
  for (;;) {
    int task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    work_(context_, task, thread);
  }
}

void Threads::serve(int thread, unsigned seen) {
  for (;;) {
    for (int spin = 0; turn_.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin)
      pause();
    turn_.wait(seen, std::memory_order_acquire);
    seen = turn_.load(std::memory_order_acquire);
    if (stopping_) return;
    ++active_;
    if (open_ && thread < limit_) work_off(thread);
    --active_;
  }
}

}  // namespace ellm
