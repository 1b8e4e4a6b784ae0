// The checked machine's view of memory: who wrote and read what when, and copies that land late.
//
// Every role is an agent with a vector clock. A release publishes the clock, an acquire joins it;
// an access that is not ordered after the last conflicting one by these clocks is an error,
// whatever the interleaving.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "terrazzo/arch/host/barrier.hpp"
#include "terrazzo/core/check.hpp"
#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/heap.hpp"
#include "terrazzo/core/math.hpp"

namespace terrazzo::host {

using Clock = std::vector<uint32_t>;

inline void join(Clock& into, const Clock& from) {
  if (into.size() < from.size()) {
    into.resize(from.size(), 0);
  }
  for (size_t i = 0; i < from.size(); ++i) {
    into[i] = std::max(into[i], from[i]);
  }
}

/// When copies land: at random, only when nothing else can go on, or at once.
enum class Lateness : uint8_t { kRandom, kLate, kEager };

/// Protocol steps that a test can leave out, to see that the machine notices.
struct PlantedFaults {
  bool no_proxy_fence = false;  // consumers publish a stage without the proxy fence
  bool no_acquire = false;      // counters are polled without acquire
  bool no_load_fence = false;   // loaders copy after an acquire without the proxy fence
  bool no_full_wait = false;    // consumers use a slot before its full barrier
  bool no_store_wait = false;   // storers signal before their stores are complete
  bool no_read_wait = false;    // storers give a stage back before their stores have read it
  bool double_arrival = false;  // consumers arrive twice on an empty barrier
};

struct CheckOptions {
  uint64_t seed = 0;
  Lateness lateness = Lateness::kRandom;
  PlantedFaults faults;
};

inline constexpr uint32_t kShadowBytes = kChunkBytes;  // of one shadow cell: the smallest copy
inline constexpr uint32_t kNone = 0xffffffff;

/// A role in an instruction.
struct Accessor {
  uint32_t agent;
  uint32_t position;  // of the instruction in the queue
};

/// Who touched a cell, when by its own clock.
struct Touch {
  Accessor by = {kNone, 0};
  uint32_t epoch = 0;
};

struct ShadowCell {
  uint32_t launch = 0;  // of the touches; those of older launches mean nothing
  bool valid = false;   // somebody wrote it
  Touch write;
  Touch read;
  uint32_t more_reads = kNone;  // other reads since the write that are not ordered before `read`
};

/// The shadow of one GPU's heap. Buffers that live from step to step stay valid; all others start
/// each launch as poison.
class HeapShadow {
 public:
  HeapShadow(const std::byte* base, const HeapLayout& layout)
      : base_(base), layout_(layout), cells_(ceil_div<uint64_t>(layout.total_bytes, kShadowBytes)) {
    mark_valid(layout.at(Buffer::kZeros), layout.size(Buffer::kZeros));
  }

  bool contains(const std::byte* pointer) const {
    return pointer >= base_ && pointer < base_ + layout_.total_bytes;
  }
  uint64_t offset_of(const std::byte* pointer) const {
    return static_cast<uint64_t>(pointer - base_);
  }
  ShadowCell& cell(uint64_t offset) { return cells_[offset / kShadowBytes]; }

  void mark_valid(uint64_t offset, uint64_t bytes) {
    for (uint64_t at = offset; at < offset + bytes; at += kShadowBytes) {
      cell(at).valid = true;
    }
  }

  /// After a launch that was not checked: it may have written all that lives from step to step.
  void trust_persistent() {
    for (const Buffer buffer : kPersistent) {
      mark_valid(layout_.at(buffer), layout_.size(buffer));
    }
  }

  bool persistent(uint64_t offset) const {
    for (const Buffer buffer : kPersistent) {
      if (offset >= layout_.at(buffer) && offset < layout_.at(buffer) + layout_.size(buffer)) {
        return true;
      }
    }
    return false;
  }

  std::string describe(uint64_t offset) const {
    for (uint32_t i = 0; i < kNumBuffers; ++i) {
      if (offset >= layout_.offset[i] && offset < layout_.offset[i] + layout_.bytes[i]) {
        return std::string(kBufferNames[i]) + " + " + std::to_string(offset - layout_.offset[i]);
      }
    }
    return "heap + " + std::to_string(offset);
  }

 private:
  static constexpr Buffer kPersistent[] = {Buffer::kKvPool, Buffer::kSampled, Buffer::kZeros};

  const std::byte* base_;
  HeapLayout layout_;
  std::vector<ShadowCell> cells_;
};

/// Called for every heap access of an instruction: (agent, gpu, heap offset, bytes, is write).
using AccessObserver = std::function<void(uint32_t, uint32_t, uint64_t, uint64_t, bool)>;

/// Memory checks of one launch.
class Checker {
 public:
  Checker(std::vector<HeapShadow>& shadows, const CheckOptions& options, uint32_t launch,
          uint32_t num_agents)
      : options(options),
        random(options.seed),
        shadows_(shadows),
        launch_(launch),
        num_agents_(num_agents) {}

  const CheckOptions options;
  std::mt19937_64 random;
  AccessObserver observer;
  std::function<std::string(const Accessor&)> name_of;

  uint32_t num_agents() const { return num_agents_; }

  /// A copy out of the heap, issued by `by` when its clock was `clock`; tells of each cell whether
  /// it is valid, from `valid` on (memory outside the heaps is: constants).
  void read(const Accessor& by, const Clock& clock, const std::byte* source, uint32_t bytes,
            uint8_t* valid) {
    HeapShadow* const shadow = find(source);
    if (shadow == nullptr) {
      std::fill_n(valid, bytes / kShadowBytes, uint8_t{1});
      return;
    }
    const uint64_t begin = shadow->offset_of(source);
    observe(by.agent, *shadow, begin, bytes, false);
    for (uint64_t at = begin; at < begin + bytes; at += kShadowBytes) {
      ShadowCell& cell = open(*shadow, at);
      require_ordered(cell.write, clock, by, " reads ", *shadow, at, " write by ");
      *valid++ = cell.valid ? 1 : 0;
      add_read(cell, clock, {by, clock[by.agent]});
    }
  }

  /// A copy into the heap, issued by `by` when its clock was `clock`, that lands at `epoch`.
  void write(const Accessor& by, const Clock& clock, uint32_t epoch, const std::byte* target,
             uint32_t bytes) {
    HeapShadow* const shadow = find(target);
    if (shadow == nullptr) {
      fail("race", name_of(by), " writes outside the heaps");
    }
    const uint64_t begin = shadow->offset_of(target);
    observe(by.agent, *shadow, begin, bytes, true);
    for (uint64_t at = begin; at < begin + bytes; at += kShadowBytes) {
      ShadowCell& cell = open(*shadow, at);
      require_ordered(cell.write, clock, by, " writes ", *shadow, at, " write by ");
      require_ordered(cell.read, clock, by, " writes ", *shadow, at, " read by ");
      for (uint32_t i = cell.more_reads; i != kNone; i = more_reads_[i].next) {
        require_ordered(more_reads_[i].read, clock, by, " writes ", *shadow, at, " read by ");
      }
      cell = {launch_, true, {by, epoch}, {}, kNone};
    }
  }

  /// "gpu 1 x + 4096", for messages.
  std::string place_of(const std::byte* pointer) {
    const HeapShadow* const shadow = find(pointer);
    return shadow == nullptr ? "constant memory" : place(*shadow, shadow->offset_of(pointer));
  }

  /// Clock of a counter; releases join into it, acquires read it.
  Clock& counter_clock(const uint32_t* counter) {
    HeapShadow* const shadow = find(reinterpret_cast<const std::byte*>(counter));
    check(shadow != nullptr, "race", "a counter lies outside the heaps");
    const auto gpu = static_cast<size_t>(shadow - shadows_.data());
    if (counter_clocks_.size() <= gpu) {
      counter_clocks_.resize(shadows_.size());
    }
    auto& clocks = counter_clocks_[gpu];
    const uint64_t index = shadow->offset_of(reinterpret_cast<const std::byte*>(counter)) / 4;
    return clocks.try_emplace(index, num_agents_, 0).first->second;
  }

 private:
  HeapShadow* find(const std::byte* pointer) {
    for (HeapShadow& shadow : shadows_) {
      if (shadow.contains(pointer)) {
        return &shadow;
      }
    }
    return nullptr;
  }

  struct MoreReads {
    Touch read;
    uint32_t next;
  };

  /// The cell as this launch has it: poison at first, but for what lives from step to step.
  ShadowCell& open(HeapShadow& shadow, uint64_t offset) {
    ShadowCell& cell = shadow.cell(offset);
    if (cell.launch != launch_) {
      cell = {launch_, cell.valid && shadow.persistent(offset), {}, {}, kNone};
    }
    return cell;
  }

  static bool ordered(const Touch& touch, const Clock& clock) {
    return touch.by.agent == kNone || clock[touch.by.agent] >= touch.epoch;
  }

  /// Whoever is ordered after the new read is ordered after those that were ordered before it.
  void add_read(ShadowCell& cell, const Clock& clock, const Touch& read) {
    if (!ordered(cell.read, clock)) {
      more_reads_.push_back({cell.read, cell.more_reads});
      cell.more_reads = static_cast<uint32_t>(more_reads_.size() - 1);
    }
    cell.read = read;
  }

  void require_ordered(const Touch& touch, const Clock& clock, const Accessor& by, const char* does,
                       const HeapShadow& shadow, uint64_t offset, const char* did) const {
    if (!ordered(touch, clock)) [[unlikely]] {
      fail("race", name_of(by), does, place(shadow, offset), ", not ordered after the", did,
           name_of(touch.by));
    }
  }

  std::string place(const HeapShadow& shadow, uint64_t offset) const {
    return "gpu " + std::to_string(&shadow - shadows_.data()) + " " + shadow.describe(offset);
  }

  void observe(uint32_t agent, const HeapShadow& shadow, uint64_t offset, uint64_t bytes,
               bool write) {
    if (observer) {
      observer(agent, static_cast<uint32_t>(&shadow - shadows_.data()), offset, bytes, write);
    }
  }

  std::vector<HeapShadow>& shadows_;
  uint32_t launch_;
  uint32_t num_agents_;
  std::vector<MoreReads> more_reads_;
  std::vector<std::unordered_map<uint64_t, Clock>> counter_clocks_;  // by GPU, then counter
};

}  // namespace terrazzo::host
