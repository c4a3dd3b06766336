/* Ordered access to words that another process or the kernel reads and writes at the same time:
 * virtqueue indices and descriptors in guest memory, AF_XDP ring indices in kernel memory.
 *
 * They take void pointers, because the memory is nobody's typed object, and each access is one
 * machine load or store that the compiler may not repeat: what was read is what gets checked.
 * Little-endian hosts only (virtio 1.x rings are little-endian; so is everything we build for).
 */
#pragma once
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "big-endian hosts are not supported: virtqueues are little-endian"
#endif

static inline __attribute__((always_inline)) uint16_t shared_load16_acquire(const void *p) {
  return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}
static inline __attribute__((always_inline)) uint16_t shared_load16_relaxed(const void *p) {
  return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}
static inline __attribute__((always_inline)) uint32_t shared_load32_acquire(const void *p) {
  return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE);
}
static inline __attribute__((always_inline)) uint32_t shared_load32_relaxed(const void *p) {
  return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}
static inline __attribute__((always_inline)) uint64_t shared_load64_acquire(const void *p) {
  return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
}
static inline __attribute__((always_inline)) uint64_t shared_load64_relaxed(const void *p) {
  return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}
static inline __attribute__((always_inline)) void shared_store16_release(void *p, uint16_t v) {
  __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE);
}
static inline __attribute__((always_inline)) void shared_store16_relaxed(void *p, uint16_t v) {
  __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED);
}
static inline __attribute__((always_inline)) void shared_store32_release(void *p, uint32_t v) {
  __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE);
}
static inline __attribute__((always_inline)) void shared_store32_relaxed(void *p, uint32_t v) {
  __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED);
}
static inline __attribute__((always_inline)) void shared_store64_release(void *p, uint64_t v) {
  __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE);
}
static inline __attribute__((always_inline)) void shared_store64_relaxed(void *p, uint64_t v) {
  __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED);
}
/* Sets bits of a byte that the other side exchanges for 0; returns what was there.  Release: who
 * finds the bits set sees all that was written before. */
static inline __attribute__((always_inline)) uint8_t shared_or8_release(void *p, uint8_t bits) {
  return __atomic_fetch_or((uint8_t *)p, bits, __ATOMIC_RELEASE);
}
/* What a front-end does with a word of the log of written pages. */
static inline __attribute__((always_inline)) uint64_t shared_exchange64(void *p, uint64_t v) {
  return __atomic_exchange_n((uint64_t *)p, v, __ATOMIC_SEQ_CST);
}
/* A counter that several threads add to. */
static inline __attribute__((always_inline)) uint64_t shared_add64_relaxed(void *p, uint64_t v) {
  return __atomic_fetch_add((uint64_t *)p, v, __ATOMIC_RELAXED);
}
/* Full fence: orders an earlier store before a later load (StoreLoad). */
static inline __attribute__((always_inline)) void shared_fence(void) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
/* Keeps the compiler from moving a store over another: what a process has stored when it is killed
 * is then a prefix of what it would have stored. */
static inline __attribute__((always_inline)) void shared_order(void) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline __attribute__((always_inline)) void shared_prefetch(const void *where) {
  __builtin_prefetch(where, 0, 3);
}
static inline __attribute__((always_inline)) void shared_prefetch_to_write(const void *where) {
#if defined(__x86_64__)
  // Every CPU that runs this knows it, or takes it for nothing; compilers use it only when told to.
  __asm__ volatile("prefetchw %0" : : "m"(*(const char *)where));
#else
  __builtin_prefetch(where, 1, 3);
#endif
}
static inline __attribute__((always_inline)) void shared_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
