// The verifier's proof rests on the accesses that each instruction declares. Here the machine runs
// the instructions, and what they touch is held against what they declared.
#include <map>
#include <set>
#include <tuple>

#include "check.hpp"
#include "host/session.hpp"
#include "lower/accesses.hpp"

namespace terrazzo::testing {
namespace {

/// Byte ranges of one buffer.
class ByteSet {
 public:
  void add(uint64_t begin, uint64_t end) { ranges_.emplace_back(begin, end); }

  /// Ranges of this set that are not in `other`.
  ByteSet without(const ByteSet& other) const {
    ByteSet out;
    const std::vector<Range> taken = other.merged();
    size_t first = 0;
    for (auto [begin, end] : merged()) {
      while (first < taken.size() && taken[first].second <= begin) {
        ++first;
      }
      for (size_t i = first; i < taken.size() && taken[i].first < end; ++i) {
        if (begin < taken[i].first) {
          out.add(begin, taken[i].first);
        }
        begin = std::max(begin, taken[i].second);
      }
      if (begin < end) {
        out.add(begin, end);
      }
    }
    return out;
  }

  bool empty() const { return ranges_.empty(); }
  std::string text() const {
    std::string out;
    for (const auto& [begin, end] : ranges_) {
      out += " [" + std::to_string(begin) + ", " + std::to_string(end) + ")";
    }
    return out;
  }

 private:
  using Range = std::pair<uint64_t, uint64_t>;

  std::vector<Range> merged() const {
    std::vector<Range> sorted = ranges_;
    std::sort(sorted.begin(), sorted.end());
    std::vector<Range> out;
    for (const auto& [begin, end] : sorted) {
      if (!out.empty() && begin <= out.back().second) {
        out.back().second = std::max(out.back().second, end);
      } else {
        out.emplace_back(begin, end);
      }
    }
    return out;
  }

  std::vector<Range> ranges_;
};

/// What one instruction touches: by GPU, buffer and mode.
using Touched = std::map<std::tuple<uint32_t, Buffer, AccessMode>, ByteSet>;
/// By GPU that runs the instruction, and queue position.
using StepTouched = std::map<std::pair<uint32_t, uint32_t>, Touched>;

/// Runs the step with copies that land at once, so that the role that issued a copy is still in the
/// instruction when the copy is seen.
StepTouched observe(host::HostMachine& machine, const LoweredStep& step, uint64_t seed) {
  StepTouched out;
  const HeapLayout& layout = machine.layout();
  const auto observer = [&](uint32_t agent, uint32_t gpu, uint64_t offset, uint64_t bytes,
                            bool write) {
    const host::BlockedRole role = machine.agent(agent).report();
    for (uint32_t i = 0; i < kNumBuffers; ++i) {
      const auto buffer = static_cast<Buffer>(i);
      if (offset >= layout.at(buffer) && offset < layout.at(buffer) + layout.size(buffer)) {
        const uint64_t begin = offset - layout.at(buffer);
        out[{role.gpu, role.position}]
           [{gpu, buffer, write ? AccessMode::kWrite : AccessMode::kRead}]
               .add(begin, begin + bytes);
      }
    }
    if (!role.has_instruction) {
      report_failure(__FILE__, __LINE__, "an access outside of any instruction");
    }
  };
  machine.run_checked(step, {.seed = seed, .lateness = host::Lateness::kEager, .faults = {}},
                      observer);
  return out;
}

Touched declared(const Instruction& instruction, uint32_t gpu, int32_t layer,
                 const Session& session, const LoweredStep& step) {
  Touched out;
  for_each_access(instruction, gpu, layer, session.shape, session.limits, step.tables(),
                  [&](const Access& access) {
                    out[{access.gpu, access.buffer, access.mode}].add(access.begin, access.end);
                  });
  return out;
}

struct Exception {
  Opcode opcode;
  Buffer buffer;
  const char* reason;
};

/// Reads that are declared and need not be seen.
constexpr Exception kUnseenReads[] = {
    {Opcode::kEmbed, Buffer::kSampled, "the loader reads ids itself: addresses of its copies"},
    {Opcode::kSample, Buffer::kLogits, "declared with the padding behind the vocabulary"},
};

/// Reads that are seen and need not be declared: nothing ever writes there.
constexpr Exception kUndeclaredReads[] = {
    {Opcode::kAttendPrefill, Buffer::kZeros, "tail of a partly filled V page"},
    {Opcode::kAttendDecode, Buffer::kZeros, "tail of a partly filled V page"},
};

template <size_t kSize>
bool excepted(const Exception (&list)[kSize], Opcode opcode, Buffer buffer, AccessMode mode) {
  return mode == AccessMode::kRead &&
         std::any_of(list, list + kSize, [&](const Exception& exception) {
           return exception.opcode == opcode && exception.buffer == buffer;
         });
}

/// Sentences about all that differs.
std::vector<std::string> differences(Touched seen, Touched said, Opcode opcode) {
  std::vector<std::string> out;
  std::set<Touched::key_type> keys;
  for (const auto* const side : {&seen, &said}) {
    for (const auto& [key, bytes] : *side) {
      keys.insert(key);
    }
  }
  for (const auto& key : keys) {
    const auto& [gpu, buffer, mode] = key;
    const std::string place = std::string(mode == AccessMode::kRead ? "reads " : "writes ") +
                              kBufferNames[static_cast<uint32_t>(buffer)] + " of gpu " +
                              std::to_string(gpu) + ":";
    const ByteSet undeclared = seen[key].without(said[key]);
    if (!undeclared.empty() && !excepted(kUndeclaredReads, opcode, buffer, mode)) {
      out.push_back(place + undeclared.text() + " not declared");
    }
    const ByteSet unseen = said[key].without(seen[key]);
    if (!unseen.empty() && !excepted(kUnseenReads, opcode, buffer, mode)) {
      out.push_back(place + unseen.text() + " declared, but not seen");
    }
  }
  return out;
}

/// Calls f(gpu, place, what was seen) for each instruction of the step.
template <class F>
void for_each_place(const LoweredStep& step, StepTouched& touched, F f) {
  for (uint32_t gpu = 0; gpu < step.gpus.size(); ++gpu) {
    const ProgramView program = step.view(gpu);
    for (uint32_t position = 0; position < program.queue_size(); ++position) {
      const QueuePlace place = place_of(program, position);
      if (!place.skip) {
        f(gpu, place, touched[{gpu, position}]);
      }
    }
  }
}

TERRAZZO_TEST(instructions_touch_what_they_declare) {
  uint32_t times[kNumOpcodes] = {};
  for (const uint64_t seed : seeds_to_run(100, 28)) {
    const Session session = make_session(seed);
    const auto machine = session.machine();
    for (uint32_t index = 0; index < 4; ++index) {
      const LoweredStep step = session.next();
      StepTouched touched = observe(*machine, step, seed);
      for_each_place(step, touched, [&](uint32_t gpu, const QueuePlace& place, Touched& seen) {
        const Instruction& instruction = *place.instruction;
        ++times[static_cast<uint32_t>(instruction.opcode)];
        const Touched said = declared(instruction, gpu, place.layer, session, step);
        for (const std::string& text : differences(seen, said, instruction.opcode)) {
          report_seed(__FILE__, __LINE__, seed,
                      "step " + std::to_string(index) + ", gpu " + std::to_string(gpu) + ", " +
                          opcode_name(instruction.opcode) + " " + text);
        }
      });
    }
  }
  for (uint32_t opcode = 0; opcode < kNumOpcodes; ++opcode) {
    if (runs_all_seeds() && times[opcode] < 10) {
      report_failure(__FILE__, __LINE__,
                     std::string("hardly any ") + kOpcodeNames[opcode] + " was seen");
    }
  }
}

/// An instruction whose declaration leaves something out, or claims too much, is found.
TERRAZZO_TEST(a_wrong_declaration_is_noticed) {
  const Session session = make_session(102);
  const auto machine = session.machine();
  const LoweredStep step = session.next();
  StepTouched touched = observe(*machine, step, 102);
  uint32_t changed = 0;
  for_each_place(step, touched, [&](uint32_t gpu, const QueuePlace& place, Touched& seen) {
    Instruction wrong = *place.instruction;
    if (wrong.opcode != Opcode::kOProjResidual || wrong.args.gemm.rows < 8) {
      return;
    }
    ++changed;
    wrong.args.gemm.rows -= 4;
    CHECK(
        !differences(seen, declared(wrong, gpu, place.layer, session, step), wrong.opcode).empty());
    wrong.args.gemm.rows += 8;
    CHECK(
        !differences(seen, declared(wrong, gpu, place.layer, session, step), wrong.opcode).empty());
    wrong = *place.instruction;
    Touched missing = declared(wrong, gpu, place.layer, session, step);
    missing.erase({(gpu + 1) % session.shape.world, Buffer::kX1, AccessMode::kWrite});
    CHECK(!differences(seen, missing, wrong.opcode).empty());
  });
  CHECK(changed > 0);
}

}  // namespace
}  // namespace terrazzo::testing
