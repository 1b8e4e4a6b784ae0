// Stackful fibers: each role of a virtual SM is one, switched by the scheduler of its thread.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "terrazzo/core/check.hpp"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// The race detector keeps a call stack of its own for each fiber: no instrumented call may enter on
// one fiber and leave on another.
#define TERRAZZO_SWITCHES_STACK [[gnu::noinline, gnu::no_sanitize_thread]]

namespace terrazzo::host {

/// A stack and a saved place. The first switch goes through ucontext; later ones through
/// __builtin_setjmp, which makes no system call. Sanitizers are told of every switch.
class Fiber {
 public:
  using Entry = void (*)(void*);

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  ~Fiber() {
    if (stack_ != nullptr) {
      munmap(stack_, kStackBytes);
    }
#if defined(__SANITIZE_THREAD__)
    if (tsan_ != nullptr) {
      __tsan_destroy_fiber(tsan_);
    }
#endif
  }

  /// Prepares the fiber to run `entry(argument)` at the next `resume`. Not while it is running.
  void start(Entry entry, void* argument) {
    if (stack_ == nullptr) {
      stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      check(stack_ != MAP_FAILED, "fiber", "cannot map a stack of ", kStackBytes, " bytes");
    }
    entry_ = entry;
    argument_ = argument;
    started_ = false;
    done_ = false;
#if defined(__SANITIZE_THREAD__)
    if (tsan_ != nullptr) {
      __tsan_destroy_fiber(tsan_);
    }
    tsan_ = __tsan_create_fiber(0);
#endif
  }

  bool done() const { return done_; }

  /// Runs the fiber until it suspends or ends; called by its scheduler.
  TERRAZZO_SWITCHES_STACK void resume() {
    Fiber* const outer = std::exchange(current(), this);
#if defined(__SANITIZE_THREAD__)
    tsan_caller_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_, kStackBytes);
#endif
    if (!started_) {
      started_ = true;
      getcontext(&context_);
      context_.uc_stack.ss_sp = stack_;
      context_.uc_stack.ss_size = kStackBytes;
      context_.uc_link = nullptr;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::trampoline), 2,
                  static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
      enter_first();
    } else {
      exchange(caller_, place_);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    current() = outer;
  }

  /// Goes back to the scheduler; called by the fiber itself.
  TERRAZZO_SWITCHES_STACK static void suspend() {
    Fiber* const self = current();
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(self->tsan_caller_, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(self->done_ ? nullptr : &fake, self->asan_bottom_,
                                   self->asan_size_);
#endif
    exchange(self->place_, self->caller_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &self->asan_bottom_, &self->asan_size_);
#endif
  }

 private:
  static constexpr size_t kStackBytes =
      1024 * 1024;  // two 64 KB accumulators and room; mapped lazily

  struct Place {
    void* words[5];  // what __builtin_setjmp wants
  };

  TERRAZZO_SWITCHES_STACK static Fiber*& current() {
    static thread_local Fiber* fiber = nullptr;
    return fiber;
  }

  TERRAZZO_SWITCHES_STACK static void jump(Place& to) { __builtin_longjmp(to.words, 1); }

  TERRAZZO_SWITCHES_STACK static void exchange(Place& from, Place& to) {
    if (__builtin_setjmp(from.words) == 0) {
      jump(to);
    }
  }

  TERRAZZO_SWITCHES_STACK void enter_first() {
    if (__builtin_setjmp(caller_.words) == 0) {
      setcontext(&context_);
    }
  }

  TERRAZZO_SWITCHES_STACK static void trampoline(unsigned high, unsigned low) {
    auto* const self = reinterpret_cast<Fiber*>((uintptr_t{high} << 32) | uintptr_t{low});
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->asan_bottom_, &self->asan_size_);
#endif
    self->entry_(self->argument_);
    self->done_ = true;
    suspend();
    __builtin_unreachable();
  }

  void* stack_ = nullptr;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  bool started_ = false;
  bool done_ = false;
  Place place_{};
  Place caller_{};
  ucontext_t context_{};
#if defined(__SANITIZE_THREAD__)
  void* tsan_ = nullptr;
  void* tsan_caller_ = nullptr;
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* asan_bottom_ = nullptr;
  size_t asan_size_ = 0;
#endif
};

}  // namespace terrazzo::host
