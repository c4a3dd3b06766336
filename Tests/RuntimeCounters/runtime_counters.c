#define _GNU_SOURCE
#include "runtime_counters.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

typedef struct {
  atomic_uint_fast64_t retains, releases, objects, accesses, mallocs;
} Cells;
static Cells everybody;
static atomic_bool count_everybody;
static _Thread_local RuntimeCounts own;
static _Thread_local bool count_own;

#define COUNT(what)                                                                    \
  do {                                                                                 \
    if (count_own) own.what++;                                                         \
    if (atomic_load_explicit(&count_everybody, memory_order_relaxed))                  \
      atomic_fetch_add_explicit(&everybody.what, 1, memory_order_relaxed);             \
  } while (0)

/* Defines a function of the runtime in front of the runtime's own. */
#define INTERPOSE(what, result, name, parameters, arguments) \
  result name parameters {                                   \
    static _Atomic(result(*) parameters) next;               \
    result(*call) parameters = atomic_load_explicit(&next, memory_order_relaxed); \
    if (!call) {                                             \
      call = (result(*) parameters)dlsym(RTLD_NEXT, #name);  \
      atomic_store_explicit(&next, call, memory_order_relaxed); \
    }                                                        \
    COUNT(what);                                             \
    return call arguments;                                   \
  }

INTERPOSE(retains, void *, swift_retain, (void *object), (object))
INTERPOSE(retains, void *, swift_retain_n, (void *object, uint32_t n), (object, n))
INTERPOSE(retains, void *, swift_bridgeObjectRetain, (void *object), (object))
INTERPOSE(retains, void *, swift_bridgeObjectRetain_n, (void *object, int n), (object, n))
INTERPOSE(releases, void, swift_release, (void *object), (object))
INTERPOSE(releases, void, swift_release_n, (void *object, uint32_t n), (object, n))
INTERPOSE(releases, void, swift_bridgeObjectRelease, (void *object), (object))
INTERPOSE(releases, void, swift_bridgeObjectRelease_n, (void *object, int n), (object, n))
INTERPOSE(objects, void *, swift_allocObject, (void const *type, size_t size, size_t mask),
          (type, size, mask))
INTERPOSE(accesses, void, swift_beginAccess,
          (void *pointer, void *buffer, uintptr_t flags, void *pc), (pointer, buffer, flags, pc))

#if !SANITIZED
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t size) {
  COUNT(mallocs);
  return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
  COUNT(mallocs);
  return __libc_calloc(count, size);
}
void *realloc(void *block, size_t size) {
  COUNT(mallocs);
  return __libc_realloc(block, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  COUNT(mallocs);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void **block, size_t alignment, size_t size) {
  COUNT(mallocs);
  void *result = __libc_memalign(alignment, size);
  if (!result) return ENOMEM;
  *block = result;
  return 0;
}
#endif

void runtime_counters_start(void) {
  own = (RuntimeCounts){0};
  count_own = true;
}

void runtime_counters_start_all_threads(void) {
  atomic_store(&everybody.retains, 0);
  atomic_store(&everybody.releases, 0);
  atomic_store(&everybody.objects, 0);
  atomic_store(&everybody.accesses, 0);
  atomic_store(&everybody.mallocs, 0);
  atomic_store(&count_everybody, true);
}

RuntimeCounts runtime_counters_read(void) {
  if (count_own) return own;
  return (RuntimeCounts){atomic_load(&everybody.retains), atomic_load(&everybody.releases),
                         atomic_load(&everybody.objects), atomic_load(&everybody.accesses),
                         atomic_load(&everybody.mallocs)};
}

RuntimeCounts runtime_counters_stop(void) {
  RuntimeCounts counts = runtime_counters_read();
  if (count_own)
    count_own = false;
  else
    atomic_store(&count_everybody, false);
  return counts;
}

bool runtime_counters_count_malloc(void) {
#if SANITIZED
  return false;
#else
  return true;
#endif
}

bool runtime_counters_optimised(void) {
#if __OPTIMIZE__
  return true;
#else
  return false;
#endif
}
