#include "parallel.hpp"

#include <atomic>
#include <cstdlib>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
GompParallel gomp_parallel = nullptr;

struct Job {
  std::atomic<int64_t> next{0};
  int64_t count = 0;
  MxItem item = nullptr;
  void* context = nullptr;
  std::atomic<bool> out_of_memory{false};
};

// Gradual underflow and round to nearest, whatever the caller has set (torch.set_flush_denormal).
class DefaultRounding {
#if defined(__x86_64__)
 public:
  DefaultRounding() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~DefaultRounding() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

void take(void* data) {
  Job& job = *static_cast<Job*>(data);
  DefaultRounding rounding;
  try {
    for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) job.item(job.context, i);
  } catch (const std::bad_alloc&) {  // may not leave a thread of the pool
    job.out_of_memory = true;
    job.next = job.count;
  }
#if defined(__x86_64__)
  _mm_sfence();  // streaming stores are ordered by nothing else
#endif
}

constexpr int SLOTS = 4;

struct Buffers {
  void* data[SLOTS] = {};
  int64_t size[SLOTS] = {};
  ~Buffers() {
    for (void* p : data) std::free(p);
  }
};
thread_local Buffers buffers;

}  // namespace

void mx_parallel(int64_t count, int32_t threads, MxItem item, void* context) {
  Job job;
  job.count = count;
  job.item = item;
  job.context = context;
  if (threads > count) threads = static_cast<int32_t>(count);
  if (threads <= 1) {
    take(&job);
  } else if (gomp_parallel) {
    gomp_parallel(take, &job, static_cast<unsigned>(threads), 0);
  } else {
    std::vector<std::thread> others;
    try {
      for (int32_t t = 1; t < threads; ++t) others.emplace_back(take, &job);
    } catch (const std::system_error&) {  // fewer threads do the same work
    }
    take(&job);
    for (auto& other : others) other.join();
  }
  if (job.out_of_memory) throw std::bad_alloc();
}

void* mx_scratch(int slot, int64_t bytes) {
  if (buffers.size[slot] < bytes) {
    std::free(buffers.data[slot]);
    const int64_t size = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    buffers.data[slot] = std::aligned_alloc(64, static_cast<size_t>(size));
    buffers.size[slot] = buffers.data[slot] ? size : 0;
    if (!buffers.data[slot]) throw std::bad_alloc();
  }
  return buffers.data[slot];
}

// torch's own OpenMP pool, found by the caller: no second pool competes for the cores.
extern "C" __attribute__((visibility("default"))) void mx_use_pool(void* address) {
  gomp_parallel = reinterpret_cast<GompParallel>(address);
}
