// Work shared between threads. Items are handed out by a counter and every item is computed alike whoever takes it,
// so that results do not depend on the number of threads.
#pragma once

#include <cstdint>

using MxItem = void (*)(void* context, int64_t item);

// Calls item(context, i) for every i in 0 .. count-1 on up to `threads` threads. Throws std::bad_alloc if one did.
void mx_parallel(int64_t count, int32_t threads, MxItem item, void* context);

// Memory of the calling thread that outlives the call, 64-byte aligned; `slot` tells buffers apart. Its content is
// lost when the same slot is asked for again on the same thread. Throws std::bad_alloc.
void* mx_scratch(int slot, int64_t bytes);

template <class F>
void parallel(int64_t count, int32_t threads, F& body) {
  mx_parallel(count, threads, [](void* context, int64_t item) { (*static_cast<F*>(context))(item); }, &body);
}
