#include "cuda/lanes/lanes.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace terrazzo::lanes {
namespace {

constexpr uint32_t kMostIdleRounds = 2000;
constexpr uint64_t kIdleNs = 50'000'000;  // that a round without progress stands for

struct LaneStart {
  Block* block;
  Lane* lane;
};

void lane_entry(void* argument) {
  Lane& lane = *static_cast<Lane*>(argument);
  lane.block->body(lane.thread);
}

}  // namespace

Launch* Launch::current_ = nullptr;
Lane* Launch::lane_ = nullptr;

void fail(const char* what) {
  const uint64_t seed = Launch::is_running() ? Launch::current().seed() : 0;
  std::fprintf(stderr, "lanes: %s (launch of seed %llu)\n", what,
               static_cast<unsigned long long>(seed));
  std::abort();
}

void require(bool condition, const char* what) {
  if (!condition) {
    fail(what);
  }
}

Block::Block(uint32_t num_threads) {
  shared = static_cast<std::byte*>(std::aligned_alloc(1024, (kSharedBytes + 1023) / 1024 * 1024));
  for (uint32_t i = 0; i < num_threads / kWarpLanes; ++i) {
    warps.push_back(std::make_unique<Warp>());
  }
}

Block::~Block() { std::free(shared); }

std::byte* Block::at(uint32_t address, uint32_t bytes) const {
  require(address >= kSharedBase && uint64_t{address} + bytes <= kSharedBase + kSharedBytes,
          "an address outside of shared memory");
  return shared + (address - kSharedBase);
}

Launch::Launch(std::vector<Block*> blocks, uint64_t seed, bool is_patient)
    : blocks_(std::move(blocks)),
      seed_(seed),
      is_patient_(is_patient),
      random_(seed),
      laziness_(static_cast<uint32_t>(random_() % 4)) {
  for (Block* const block : blocks_) {
    std::memset(block->shared, 0xff, kSharedBytes);
    for (NamedBarrier& barrier : block->barriers) {
      barrier = {};
    }
    uint32_t thread = 0;
    for (const auto& warp : block->warps) {
      warp->arrived = 0;
      warps_.push_back(warp.get());
      for (uint32_t i = 0; i < kWarpLanes; ++i, ++thread) {
        Lane& lane = warp->lanes[i];
        lane.block = block;
        lane.warp = warp.get();
        lane.thread = thread;
        lane.lane = i;
        lane.wait = Wait::kNone;
        lane.counter = nullptr;
        lane.products.clear();
        lane.commits.clear();
        lane.stores.clear();
        lane.fiber.start(lane_entry, &lane);
      }
    }
  }
}

void Launch::block_lane(Wait wait) {
  lane_->wait = wait;
  host::Fiber::suspend();
}

void Launch::yield() { host::Fiber::suspend(); }

bool Launch::is_ready(Lane& lane) const {
  switch (lane.wait) {
    case Wait::kNone:
      return !lane.fiber.done();
    case Wait::kWarp:
    case Wait::kNamedBarrier:
      return false;
    case Wait::kMbarrier:
      return lane.timed_out || lane.block->mbarrier(lane.barrier).parity() != lane.parity;
    case Wait::kCounters:
      return lane.timed_out || lane.counters_seen != counters_changed;
  }
  return false;
}

/// Lets the lanes of a warp run for a while. False if none of them can.
bool Launch::run_warp(Warp& warp) {
  bool ran = false;
  for (uint64_t left = 1 + random(1u << random(9)); left > 0; --left) {
    bool any = false;
    const uint64_t order = random_();  // of the lanes: from one on, in steps of an odd number
    for (uint64_t i = 0; i < kWarpLanes; ++i) {
      Lane& lane = warp.lanes[(order + i * (order >> 8 | 1)) % kWarpLanes];
      if (is_ready(lane)) {
        any = true;
        lane.wait = Wait::kNone;
        lane_ = &lane;
        lane.fiber.resume();
        if (lane.fiber.done()) {
          ++num_done_;
          note_progress();
        }
      }
    }
    if (!any) {
      break;
    }
    ran = true;
  }
  return ran;
}

void Launch::run() {
  current_ = this;
  const uint64_t total = warps_.size() * kWarpLanes;
  while (num_done_ < total) {
    bool ran = false;
    const size_t begin = random(warps_.size());
    for (size_t i = 0; i < warps_.size() && !ran; ++i) {
      ran = run_warp(*warps_[(begin + i) % warps_.size()]);
    }
    bool happened = false;
    if (!ran) {
      happened = happen();
    } else if (random(1u << (2 * laziness_)) == 0) {
      for (uint64_t left = 1 + random(4); left > 0 && happen(); --left) {
      }
    }
    if (counters_seen_ != counters_changed) {
      counters_seen_ = counters_changed;
      note_progress();
    }
    if (!ran && !happened && num_done_ < total) {
      // Looks at barriers do not last for ever.
      now_ns_ += kIdleNs;
      if (++idle_rounds_ > kMostIdleRounds) {
        give_up();
      }
      for (Warp* const warp : warps_) {
        for (Lane& lane : warp->lanes) {
          lane.timed_out = lane.wait == Wait::kMbarrier || lane.wait == Wait::kCounters;
        }
      }
    }
  }
  current_ = nullptr;
}

bool Launch::is_drained() const {
  const auto is_idle = [](const Lane& lane) {
    return lane.products.empty() && lane.commits.empty() && lane.stores.empty();
  };
  return loads.empty() && std::all_of(warps_.begin(), warps_.end(), [&](const Warp* warp) {
           return std::all_of(std::begin(warp->lanes), std::end(warp->lanes), is_idle);
         });
}

void Launch::give_up() const {
  for (size_t i = 0; i < warps_.size(); ++i) {
    std::fprintf(stderr, "warp %zu:", i);
    for (const Lane& lane : warps_[i]->lanes) {
      std::fprintf(stderr, " %d", lane.fiber.done() ? -1 : static_cast<int>(lane.wait));
    }
    std::fprintf(stderr, "\n");
  }
  fail("no lane can go on");
}

/// Something asynchronous happens. False if nothing is on its way.
bool Launch::happen() {
  // Products, then stores, then loads, from a random warp on: each kind alike often over time.
  const uint64_t first = random(3);
  for (uint64_t i = 0; i < 3; ++i) {
    switch ((first + i) % 3) {
      case 0: {
        const size_t begin = random(warps_.size());
        for (size_t w = 0; w < warps_.size(); ++w) {
          Warp& warp = *warps_[(begin + w) % warps_.size()];
          if (std::all_of(std::begin(warp.lanes), std::end(warp.lanes),
                          [](const Lane& lane) { return !lane.products.empty(); })) {
            run_product(warp);
            note_progress();
            return true;
          }
        }
        break;
      }
      case 1: {
        const size_t begin = random(warps_.size());
        for (size_t w = 0; w < warps_.size(); ++w) {
          for (Lane& lane : warps_[(begin + w) % warps_.size()]->lanes) {
            if (!lane.stores.empty()) {
              const size_t index = random(lane.stores.size());
              perform_store(lane, index, lane.stores[index].was_read);
              note_progress();
              return true;
            }
          }
        }
        break;
      }
      default:
        if (!loads.empty()) {
          perform_load(random(loads.size()));
          note_progress();
          return true;
        }
    }
  }
  return false;
}

void Launch::complete(Mbarrier& barrier) {
  if (barrier.pending == 0 && barrier.bytes_and_phase >> 1 == 0) {
    barrier.bytes_and_phase ^= 1;
    barrier.pending = barrier.arrivals;
    note_progress();
  }
}

void Launch::perform_load(size_t index) {
  const BulkLoad load = loads[index];
  loads[index] = loads.back();
  loads.pop_back();
  std::memcpy(load.block->at(load.target, load.bytes), load.source, load.bytes);
  Mbarrier& barrier = load.block->mbarrier(load.barrier);
  barrier.bytes_and_phase -= static_cast<int32_t>(2 * load.bytes);
  require(barrier.bytes_and_phase >= 0, "more bytes than a barrier expects");
  complete(barrier);
}

/// Reads the store's source; then, if `write`, its bytes land.
void Launch::perform_store(Lane& lane, size_t index, bool write) {
  BulkStore& store = lane.stores[index];
  if (!store.was_read) {
    const std::byte* const source = lane.block->at(store.source, store.bytes);
    store.data.assign(source, source + store.bytes);
    store.was_read = true;
  }
  if (write) {
    std::memcpy(store.target, store.data.data(), store.bytes);
    lane.stores.erase(lane.stores.begin() + static_cast<ptrdiff_t>(index));
  }
}

void warp_collective(void (*run)(void* const*), void* arguments) {
  Lane& lane = Launch::lane();
  Warp& warp = *lane.warp;
  require(warp.arrived == 0 || warp.kind == run, "lanes of a warp at different collectives");
  warp.kind = run;
  warp.arguments[lane.lane] = arguments;
  if (++warp.arrived < kWarpLanes) {
    Launch::block_lane(Wait::kWarp);
    return;
  }
  warp.arrived = 0;
  if (run != nullptr) {
    run(warp.arguments);
  }
  for (Lane& other : warp.lanes) {
    if (other.wait == Wait::kWarp) {
      other.wait = Wait::kNone;
    }
  }
}

bool named_barrier(uint32_t barrier, uint32_t threads, bool value) {
  Lane& lane = Launch::lane();
  NamedBarrier& place = lane.block->barriers[barrier];
  place.any |= value;
  if (++place.arrived < threads) {
    lane.barrier = barrier;
    Launch::block_lane(Wait::kNamedBarrier);
    return lane.any;
  }
  const bool any = place.any;
  place = {};
  for (const auto& warp : lane.block->warps) {
    for (Lane& other : warp->lanes) {
      if (other.wait == Wait::kNamedBarrier && other.barrier == barrier) {
        other.any = any;
        other.wait = Wait::kNone;
      }
    }
  }
  return any;
}

void block_sync() {
  named_barrier(0, static_cast<uint32_t>(Launch::lane().block->warps.size()) * kWarpLanes, false);
}

}  // namespace terrazzo::lanes
