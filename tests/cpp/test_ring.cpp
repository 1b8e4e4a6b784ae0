// The ring's cursor: a loader and two consumers that walk the same instructions, with barriers as
// the machines have them, in random interleavings.
#include "terrazzo/vm/ring.hpp"

#include <deque>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "terrazzo/arch/host/barrier.hpp"

namespace terrazzo {
namespace {

using testing::report_failure;

constexpr uint32_t kLoader = kNumConsumers;  // agents: the consumers, then the loader

/// An instruction, and how many slots of its stream a consumer holds back while it waits for the
/// next.
struct Plan {
  SlotPlan slots;
  uint32_t held;
};

/// What one consumer still has: which fill of which slot.
struct Held {
  uint32_t slot;
  uint64_t fill;
};

/// How far one role has come.
template <class Cursor>
struct Agent {
  Cursor cursor;
  size_t plan = 0;    // of the program
  uint32_t used = 0;  // slots of the plan
  uint64_t fill = 0;  // slots in all
  bool waiting = false;
  SlotUse use{};
  std::deque<Held> stream;
  std::vector<SlotUse> trace;
};

/// Runs a program to its end in one random interleaving; empty, or what went wrong.
template <class LoaderCursor, class ConsumerCursor>
class Ring {
 public:
  Ring(const std::vector<Plan>& program, uint64_t seed) : program_(program), random_(seed) {
    for (uint32_t slot = 0; slot < kNumSlots; ++slot) {
      full_[slot].init(1);
      empty_[slot].init(kNumConsumers);
    }
  }

  std::string run() {
    while (problem_.empty()) {
      std::vector<uint32_t> ready;
      for (uint32_t agent = 0; agent <= kLoader; ++agent) {
        if (agent == kLoader ? can_go_on(loader_) : can_go_on(consumers_[agent])) {
          ready.push_back(agent);
        }
      }
      if (ready.empty()) {
        return finished() ? ends_agree() : "deadlock";
      }
      const uint32_t agent = ready[random_() % ready.size()];
      if (agent == kLoader) {
        advance(loader_, [&](const SlotUse& use, uint64_t fill) { load(use, fill); });
      } else {
        auto& consumer = consumers_[agent];
        advance(consumer, [&](const SlotUse& use, uint64_t fill) { consume(agent, use, fill); });
      }
    }
    return problem_;
  }

 private:
  template <class Cursor>
  bool can_go_on(const Agent<Cursor>& agent) const {
    if (!agent.waiting) {
      return agent.plan < program_.size();
    }
    return static_cast<const void*>(&agent) == &loader_
               ? empty_[agent.use.slot].test(agent.use.phase ^ 1U)
               : full_[agent.use.slot].test(agent.use.phase);
  }

  /// First asks for the next slot, then, once it may, uses it.
  template <class Cursor, class Use>
  void advance(Agent<Cursor>& agent, const Use& use) {
    const Plan& plan = program_[agent.plan];
    if (agent.waiting) {
      agent.waiting = false;
      agent.trace.push_back(agent.use);
      use(agent.use, agent.fill++);
      return;
    }
    if (agent.used == 0) {
      agent.cursor.begin(plan.slots);
    }
    if (agent.used == plan.slots.count) {
      release_all(agent);
      ++agent.plan;
      agent.used = 0;
      return;
    }
    agent.use = agent.cursor.next();
    ++agent.used;
    agent.waiting = true;
  }

  void load(const SlotUse& use, uint64_t fill) {
    for (const auto& consumer : consumers_) {
      for (const Held& held : consumer.stream) {
        expect(held.slot != use.slot, "a slot is overwritten while it is held");
      }
    }
    expect(contents_[use.slot].readers == 0, "a slot is filled before both consumers saw the last");
    contents_[use.slot] = {fill, kNumConsumers};
    expect(full_[use.slot].arrive(), "the loader arrives twice");
  }

  void consume(uint32_t index, const SlotUse& use, uint64_t fill) {
    auto& consumer = consumers_[index];
    const Plan& plan = program_[consumer.plan];
    Contents& contents = contents_[use.slot];
    expect(contents.fill == fill && contents.readers > 0,
           "a consumer sees another fill than its turn");
    --contents.readers;
    consumer.stream.push_back({use.slot, fill});
    while (consumer.stream.size() > plan.held) {
      // Not always the oldest first: the rule is only that the stream must not come round to it.
      const size_t i = random_() % 4 == 0 ? 0 : consumer.stream.size() - plan.held - 1;
      release(consumer.stream[i]);
      consumer.stream.erase(consumer.stream.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  void release(const Held& held) {
    expect(contents_[held.slot].fill == held.fill, "a held slot changed");
    expect(empty_[held.slot].arrive(), "a consumer arrives twice");
  }

  /// At the end of an instruction; the loader holds nothing.
  template <class Cursor>
  void release_all(Agent<Cursor>& agent) {
    for (const Held& held : agent.stream) {
      release(held);
    }
    agent.stream.clear();
  }

  bool finished() const {
    bool done = loader_.plan == program_.size();
    for (const auto& consumer : consumers_) {
      done = done && consumer.plan == program_.size();
    }
    return done;
  }

  /// All roles used the same slots in the same phases, and phases alternate.
  std::string ends_agree() const {
    uint32_t uses[kNumSlots] = {};
    for (size_t i = 0; i < loader_.trace.size(); ++i) {
      const SlotUse& use = loader_.trace[i];
      if (use.phase != uses[use.slot]++ % 2) {
        return "the phases of a slot do not alternate";
      }
      for (const auto& consumer : consumers_) {
        if (consumer.trace[i].slot != use.slot || consumer.trace[i].phase != use.phase) {
          return "roles use different slots";
        }
      }
    }
    for (const auto& consumer : consumers_) {
      if (consumer.cursor.slot() != loader_.cursor.slot() ||
          consumer.cursor.phases() != loader_.cursor.phases()) {
        return "cursors end apart";
      }
    }
    return {};
  }

  void expect(bool condition, const char* problem) {
    if (!condition && problem_.empty()) {
      problem_ = problem;
    }
  }

  struct Contents {
    uint64_t fill = 0;
    uint32_t readers = 0;  // that have not seen it yet
  };

  const std::vector<Plan>& program_;
  std::mt19937_64 random_;
  host::Barrier full_[kNumSlots];
  host::Barrier empty_[kNumSlots];
  Contents contents_[kNumSlots];
  Agent<LoaderCursor> loader_;
  Agent<ConsumerCursor> consumers_[kNumConsumers];
  std::string problem_;
};

/// Instructions of all kinds. A consumer may hold back as many slots as the ring has, less one: the
/// loader needs one to go on.
std::vector<Plan> random_program(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Plan> program(1 + random() % 12);
  for (Plan& plan : program) {
    const auto slots = static_cast<uint32_t>(random() % 3 == 0 ? random() % 4 : random() % 101);
    plan.slots = {slots, random() % 2 == 0 ? 1U : kWideAlign};
    plan.held = static_cast<uint32_t>(random() % kNumSlots);
  }
  return program;
}

constexpr uint64_t kPrograms = 400;
constexpr uint64_t kInterleavings = 5;  // of each

TERRAZZO_TEST(every_fill_is_seen_once_in_order) {
  for (uint64_t seed = 0; seed < kPrograms; ++seed) {
    const std::vector<Plan> program = random_program(seed);
    for (uint64_t i = 0; i < kInterleavings; ++i) {
      const std::string problem = Ring<RingCursor, RingCursor>(program, seed * 100 + i).run();
      if (!problem.empty()) {
        report_failure(__FILE__, __LINE__,
                       "program " + std::to_string(seed) + ", interleaving " +
                           std::to_string(seed * 100 + i) + ": " + problem);
      }
    }
  }
}

/// One slot more than the rule allows, and the ring stands still.
TERRAZZO_TEST(who_holds_all_slots_blocks_the_ring) {
  const auto run = [](uint32_t held) {
    const std::vector<Plan> program = {{{40, 1}, held}};
    return Ring<RingCursor, RingCursor>(program, 1).run();
  };
  CHECK_EQ(run(kNumSlots - 1), std::string());
  CHECK_EQ(run(kNumSlots), std::string("deadlock"));
}

// --- broken cursors: the test above must notice them ---

/// The loader takes alignment for what GEMMs alone do.
struct UnalignedCursor : RingCursor {
  void begin(const SlotPlan& plan) { RingCursor::begin({plan.count, 1}); }
};

/// A phase bit for the whole ring.
struct OnePhaseCursor {
  void begin(const SlotPlan& plan) { slot_ = round_up(slot_, plan.align) % kNumSlots; }
  SlotUse next() {
    const SlotUse use{slot_, phase_};
    slot_ = (slot_ + 1) % kNumSlots;
    phase_ ^= slot_ == 0 ? 1U : 0U;
    return use;
  }
  uint32_t slot() const { return slot_; }
  uint32_t phases() const { return phase_; }

  uint32_t slot_ = 0;
  uint32_t phase_ = 0;
};

/// Phases of the slots that alignment passes over change too.
struct SkippingCursor : RingCursor {
  void begin(const SlotPlan& plan) {
    if (plan.align == kWideAlign) {
      skip(round_up(slot(), kWideAlign) - slot());
    }
  }
};

template <class LoaderCursor, class ConsumerCursor>
bool is_caught() {
  for (uint64_t seed = 0; seed < kPrograms; ++seed) {
    if (!Ring<LoaderCursor, ConsumerCursor>(random_program(seed), seed).run().empty()) {
      return true;
    }
  }
  return false;
}

TERRAZZO_TEST(broken_cursors_are_caught) {
  CHECK((is_caught<UnalignedCursor, RingCursor>()));
  CHECK((is_caught<OnePhaseCursor, OnePhaseCursor>()));
  CHECK((is_caught<SkippingCursor, RingCursor>()));
}

TERRAZZO_TEST(runs_of_slots_are_as_many_single_ones) {
  std::mt19937_64 random(11);
  RingCursor single;
  RingCursor run;
  for (int instruction = 0; instruction < 20000; ++instruction) {
    const SlotPlan plan{0, random() % 2 == 0 ? kWideAlign : 1U};
    single.begin(plan);
    run.begin(plan);
    for (auto runs = random() % 5; runs > 0; --runs) {
      const auto count = static_cast<uint32_t>(random() % (kNumSlots + 1));
      for (uint32_t i = 0; i < count; ++i) {
        const SlotUse wanted = single.next();
        CHECK_EQ(run.peek(i % kNumSlots).slot, wanted.slot);
        CHECK_EQ(run.peek(i % kNumSlots).phase, wanted.phase);
      }
      const auto rounds = static_cast<uint32_t>(random() % 3);
      for (uint32_t i = 0; i < rounds * kNumSlots; ++i) {
        single.next();
      }
      if (rounds == 0) {
        run.skip(count);
      } else {
        run.advance(count + rounds * kNumSlots);
      }
      CHECK_EQ(run.phases(), single.phases());
      CHECK_EQ(run.slot(), single.slot());
      SlotUse uses[3];
      run.next_run(uses);
      for (const SlotUse& seen : uses) {
        const SlotUse wanted = single.next();
        CHECK_EQ(seen.slot, wanted.slot);
        CHECK_EQ(seen.phase, wanted.phase);
      }
    }
  }
}

}  // namespace
}  // namespace terrazzo
