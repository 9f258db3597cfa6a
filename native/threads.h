// A few threads that wait for work in a loop, and in their sleep when there is none for long.
#pragma once

#include <limits.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace ellm {

class Threads {
 public:
  using Work = void (*)(const void *context, int task, int thread);

  static Threads &shared();

  // The caller counts: `count` 1 has no other thread.
  void resize(int count);
  int count() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls work(context, task, thread) for every task once, with threads below `limit`; returns when
  // all have ended.  Alone, if the others are busy for another caller.
  void run(int tasks, int limit, Work work, const void *context);

  template <class F>
  void each(int tasks, const F &work, int limit = INT_MAX) {
    run(
        tasks, limit, [](const void *f, int task, int thread) { (*static_cast<const F *>(f))(task, thread); },
        &work);
  }

 private:
  void serve(int thread, unsigned seen);
  void work_off(int thread);

  std::mutex mutex_;
  std::vector<std::thread> workers_;
  std::atomic<unsigned> turn_{0};  // changes when there is something to look at
  std::atomic<int> next_{0};       // the first task that nobody has begun
  std::atomic<int> active_{0};     // workers that look at the present work
  std::atomic<bool> open_{false};  // whether there is any
  std::atomic<bool> stopping_{false};
  int tasks_ = 0, limit_ = 0;
  Work work_ = nullptr;
  const void *context_ = nullptr;
};

}  // namespace ellm
