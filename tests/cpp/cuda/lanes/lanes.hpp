// An SM without a GPU: every thread of a block is a fiber, and what PTX instructions do is done in
// plain code. The tiles and the roles are those that nvcc compiles; only the headers of arch/sm90
// that hold inline PTX have stand-ins, in this folder.
//
// The order of everything that the hardware may order at will is random: which warp runs, when a
// copy moves its bytes, when products in flight read and write. New shared memory holds NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "terrazzo/arch/host/fiber.hpp"

namespace terrazzo::lanes {

/// The environment variable with the first launch's seed; the next ones follow.
inline constexpr const char* kSeedVariable = "TERRAZZO_LANES_SEED";

inline constexpr uint32_t kWarpLanes = 32;
inline constexpr uint32_t kNumNamedBarriers = 16;
inline constexpr uint32_t kSharedBytes = 227 * 1024;
inline constexpr uint32_t kSharedBase = 1024;  // so that no address is 0

struct Block;
struct Warp;

/// An mbarrier, in the 8 bytes that the storage has for it.
struct Mbarrier {
  int16_t arrivals;  // of a phase
  int16_t pending;
  int32_t bytes_and_phase;  // 2 * bytes that are still to come + parity of the phase

  uint32_t parity() const { return static_cast<uint32_t>(bytes_and_phase) & 1u; }
};
static_assert(sizeof(Mbarrier) == 8);

/// Operands of a wgmma of which a lane has a part.
struct Product {
  float* d;
  uint32_t columns;       // N
  uint64_t a;             // descriptor, unless fragments
  const uint32_t* steps;  // fragments, or null
  uint64_t b;
  bool accumulate;
  bool b_is_transposed;
};

/// A store of a lane's bulk group.
struct BulkStore {
  std::byte* target;
  uint32_t source;
  uint32_t bytes;
  bool committed = false;
  bool was_read = false;
  std::vector<std::byte> data;
};

enum class Wait : uint8_t { kNone, kWarp, kNamedBarrier, kMbarrier, kCounters };

struct Lane {
  host::Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  uint32_t thread = 0;
  uint32_t lane = 0;

  Wait wait = Wait::kNone;
  bool timed_out = false;
  uint32_t barrier = 0;  // named one, or address
  uint32_t parity = 0;
  bool any = false;  // what a named barrier gave
  const void* counter = nullptr;
  uint64_t counters_seen = 0;

  std::vector<Product> products;  // in flight, and how many of them each commit ended with
  std::vector<size_t> commits;
  std::deque<BulkStore> stores;
};

struct Warp {
  Lane lanes[kWarpLanes];
  uint32_t arrived = 0;
  void (*kind)(void* const*) = nullptr;  // of the collective that lanes have come to
  void* arguments[kWarpLanes] = {};
};

struct NamedBarrier {
  uint32_t arrived = 0;
  bool any = false;
};

struct BulkLoad {
  Block* block;
  uint32_t target;
  const std::byte* source;
  uint32_t bytes;
  uint32_t barrier;
};

struct Block {
  explicit Block(uint32_t num_threads);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  /// `bytes` bytes of shared memory; ends the process if it does not have them.
  std::byte* at(uint32_t address, uint32_t bytes = 1) const;
  Mbarrier& mbarrier(uint32_t address) const {
    return *reinterpret_cast<Mbarrier*>(at(address, sizeof(Mbarrier)));
  }

  std::vector<std::unique_ptr<Warp>> warps;
  std::byte* shared;
  NamedBarrier barriers[kNumNamedBarriers];
  std::function<void(uint32_t thread)> body;
};

/// All blocks of a launch on one thread.
class Launch {
 public:
  /// Without patience no wait blocks its lane: it looks again and again, as on a GPU where
  /// nothing comes, so that watchdogs see their limits pass.
  Launch(std::vector<Block*> blocks, uint64_t seed, bool is_patient = true);
  void run();
  /// Whether all that was asynchronous has been waited for; a kernel may leave nothing behind.
  bool is_drained() const;

  static Launch& current() { return *current_; }
  static bool is_running() { return current_ != nullptr; }
  static Lane& lane() { return *lane_; }

  uint64_t random(uint64_t below) { return random_() % below; }
  bool is_patient() const { return is_patient_; }
  uint64_t seed() const { return seed_; }
  uint64_t now_ns() { return now_ns_ += 10; }
  uint64_t counters_changed = 0;
  std::vector<BulkLoad> loads;

  /// The calling lane waits.
  static void block_lane(Wait wait);
  /// Other lanes may run first.
  static void yield();

  void complete(Mbarrier& barrier);
  void perform_store(Lane& lane, size_t index, bool write);

 private:
  bool run_warp(Warp& warp);
  bool is_ready(Lane& lane) const;
  bool happen();
  void perform_load(size_t index);
  void note_progress() { idle_rounds_ = 0; }
  [[noreturn]] void give_up() const;

  static Launch* current_;
  static Lane* lane_;

  std::vector<Block*> blocks_;
  std::vector<Warp*> warps_;
  uint64_t seed_;
  bool is_patient_;
  std::mt19937_64 random_;
  uint64_t now_ns_ = 1;
  uint32_t laziness_;  // of what is asynchronous: 0 at once .. 3 as late as can be
  uint32_t idle_rounds_ = 0;
  uint64_t counters_seen_ = 0;
  uint64_t num_done_ = 0;
};

[[noreturn]] void fail(const char* what);
void require(bool condition, const char* what);

/// Waits for all lanes of the warp; the last one calls `run` with the arguments of all.
void warp_collective(void (*run)(void* const*), void* arguments);
inline void warp_sync() { warp_collective(nullptr, nullptr); }

/// Waits for `threads` threads at a named barrier; true in all of them if `value` is in one.
bool named_barrier(uint32_t barrier, uint32_t threads, bool value);
/// Waits for all threads of the block.
void block_sync();

/// Adds a lane's part of a wgmma; the warp's rows are multiplied when all lanes have committed.
void add_product(const Product& product);
void commit_products();
/// The first product that all lanes of a warp have issued.
void run_product(Warp& warp);
void wait_for_products(size_t in_flight);

/// d[16, 8 * n] of a warp += a[16, 16] * b[16, 8 * n].
struct WarpProduct {
  float a[16][16];
  float b[16][256];  // [k][column]
};
void read_fragments(WarpProduct& product, const uint32_t* const (&steps)[kWarpLanes]);
void multiply(const WarpProduct& product, uint32_t columns, float* const (&d)[kWarpLanes],
              bool accumulate);

float bf16_at(const std::byte* address);
inline float low_half(uint32_t word) {
  const uint32_t bits = word << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float high_half(uint32_t word) { return low_half(word >> 16); }

}  // namespace terrazzo::lanes
