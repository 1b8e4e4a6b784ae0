// The bits of a sequence depend on the model, the degree and the sequence alone: not on SMs,
// threads, the rest of the batch, how its prompt is cut, or how attention over it is split.
#include <bit>
#include <cstdio>

#include "check.hpp"
#include "host/session.hpp"

namespace terrazzo::testing {
namespace {

constexpr int32_t kOutputs = 4;  // tokens of a sequence

struct Request {
  std::vector<int32_t> prompt;
  float temperature;
  int32_t top_k;
  float top_p;
  uint64_t seed;
};

/// Everything that a sequence gives, as bits.
struct Result {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> logprobs;
  std::vector<uint32_t> logits;  // of all its logit rows

  bool operator==(const Result&) const = default;
};

enum class Chunks { kWhole, kSingle, kRandom };

struct Schedule {
  uint32_t num_sms = 1;      // of the machine
  uint32_t num_threads = 1;  // of the machine
  uint32_t plan_sms = 1;     // that the lowering plans for
  Chunks chunks = Chunks::kWhole;
  bool random_batches = false;  // else all sequences are in each step
  bool adversary = false;
  uint64_t seed = 0;
};

constexpr StepLimits kLimits{.max_rows = 256,
                             .max_sequences = 8,
                             .max_position = 256,
                             .num_pages = 24,
                             .max_logit_rows = 8,
                             .max_partials = 256};

/// A very small engine.
class Generation {
 public:
  Generation(const TestModel& model, const std::vector<Request>& requests, const Schedule& schedule)
      : requests_(requests),
        schedule_(schedule),
        random_(schedule.seed),
        machine_(model.shape(), kLimits,
                 {.num_sms = schedule.num_sms, .num_threads = schedule.num_threads}),
        sequences_(requests.size()) {
    model.attach(machine_);
    const uint32_t pages = kLimits.max_position / kPageTokens;
    for (uint32_t i = 0; i < pages * requests.size(); ++i) {
      sequences_[i % requests.size()].pages.push_back(static_cast<int32_t>(i));
    }
  }

  std::vector<Result> run() {
    while (step()) {
    }
    std::vector<Result> results;
    for (Sequence& sequence : sequences_) {
      results.push_back(std::move(sequence.result));
    }
    return results;
  }

  uint32_t num_merges() const { return num_merges_; }

 private:
  struct Sequence {
    std::vector<int32_t> pages;
    int32_t cached = 0;
    int32_t sampled_row = -1;  // of the last step
    Result result;
  };

  int32_t chunk(int32_t left) {
    switch (schedule_.chunks) {
      case Chunks::kWhole:
        return left;
      case Chunks::kSingle:
        return 1;
      case Chunks::kRandom:
        return std::min(left, random_.pick({1, 2, 17, 64, 90}));
    }
    return left;
  }

  /// False once all sequences are complete.
  bool step() {
    StepArrays arrays;
    arrays.page_indptr.push_back(0);
    std::vector<size_t> samplers;  // [logit row]
    bool left = false;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      Sequence& sequence = sequences_[s];
      if (sequence.result.tokens.size() == kOutputs) {
        continue;
      }
      left = true;
      if (schedule_.random_batches && random_.chance(0.4)) {
        sequence.sampled_row = -1;
        continue;
      }
      if (add(sequence, requests_[s], arrays)) {
        samplers.push_back(s);
      }
    }
    if (!arrays.seq_lens.empty()) {
      run(arrays, samplers);
    }
    return left;
  }

  /// True if the sequence samples a token in this step.
  bool add(Sequence& sequence, const Request& request, StepArrays& arrays) {
    const auto prompt = static_cast<int32_t>(request.prompt.size());
    const bool decodes = sequence.cached >= prompt;
    const int32_t room =
        static_cast<int32_t>(kLimits.max_rows) - static_cast<int32_t>(arrays.token_ids.size());
    const int32_t rows = decodes ? 1 : std::min(chunk(prompt - sequence.cached), room);
    if (rows <= 0) {
      return false;
    }
    arrays.add_sequence(rows, sequence.cached);
    for (int32_t i = 0; i < rows; ++i) {
      int32_t& token = arrays.token_ids[arrays.token_ids.size() - static_cast<size_t>(rows - i)];
      // What the last step sampled may be given by its row or by its value.
      token = !decodes ? request.prompt[sequence.cached + i]
              : sequence.sampled_row >= 0 && random_.chance(0.5) ? -1 - sequence.sampled_row
                                                                 : sequence.result.tokens.back();
    }
    arrays.page_ids.insert(arrays.page_ids.end(), sequence.pages.begin(), sequence.pages.end());
    arrays.page_indptr.push_back(static_cast<int32_t>(arrays.page_ids.size()));
    sequence.cached += rows;
    sequence.sampled_row = -1;
    if (sequence.cached < prompt) {
      return false;
    }
    sequence.sampled_row = static_cast<int32_t>(arrays.logit_rows.size());
    arrays.add_logit_row(static_cast<int32_t>(arrays.token_ids.size()) - 1, request.temperature,
                         request.top_k, true);
    arrays.top_p.back() = request.top_p;
    arrays.seed.back() = request.seed;
    arrays.output_position.back() = static_cast<int32_t>(sequence.result.tokens.size());
    return true;
  }

  void run(const StepArrays& arrays, const std::vector<size_t>& samplers) {
    const ModelShape& shape = machine_.shape();
    const LoweredStep step =
        lower(arrays.request(), shape, kLimits, {.num_sms = schedule_.plan_sms});
    for (const Instruction& instruction : step.gpus[0].segment(Segment::kBody)) {
      num_merges_ += instruction.opcode == Opcode::kAttendMerge ? 1 : 0;
    }
    if (schedule_.adversary) {
      machine_.run_checked(
          step, {.seed = ++interleaving_, .lateness = host::Lateness::kRandom, .faults = {}});
    } else {
      machine_.run(step);
    }
    for (uint32_t row = 0; row < samplers.size(); ++row) {
      Result& result = sequences_[samplers[row]].result;
      result.tokens.push_back(machine_.sampled()[row].token);
      result.logprobs.push_back(std::bit_cast<uint32_t>(machine_.sampled()[row].logprob));
      const float* const logits = machine_.logits(0, step.logit_rows[row].logits_slot, 0);
      for (uint32_t id = 0; id < shape.vocab; ++id) {
        result.logits.push_back(std::bit_cast<uint32_t>(logits[id]));
      }
    }
  }

  const std::vector<Request>& requests_;
  Schedule schedule_;
  Random random_;
  host::HostMachine machine_;
  std::vector<Sequence> sequences_;
  uint64_t interleaving_ = 0;
  uint32_t num_merges_ = 0;
};

std::vector<Request> random_requests(Random& random, const ModelShape& shape) {
  std::vector<Request> requests;
  for (const int32_t length : {random.range(1, 20), random.range(60, 70), random.range(150, 200)}) {
    Request request{{},
                    random.pick({0.0F, 0.7F, 1.3F}),
                    random.pick({0, 5, 50}),
                    random.pick({1.0F, 0.8F}),
                    random.engine()()};
    for (int32_t i = 0; i < length; ++i) {
      request.prompt.push_back(random.range(0, static_cast<int32_t>(shape.vocab) - 1));
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

struct NamedSchedule {
  std::string name;
  Schedule schedule;
};

std::vector<NamedSchedule> schedules(uint64_t seed) {
  std::vector<NamedSchedule> out;
  for (uint32_t sms = 1; sms <= 8; ++sms) {
    const uint32_t threads = 1 + sms % 4;
    out.push_back({std::to_string(sms) + " SMs, " + std::to_string(threads) + " threads",
                   {.num_sms = sms, .num_threads = threads, .plan_sms = sms, .seed = seed}});
  }
  out.push_back({"prompts token by token", {.chunks = Chunks::kSingle, .seed = seed}});
  out.push_back({"tiles and splits of 132 SMs", {.plan_sms = 132, .seed = seed}});
  for (uint64_t i = 0; i < 2; ++i) {
    out.push_back({"random chunks and batches " + std::to_string(i),
                   {.num_sms = 2,
                    .plan_sms = i == 0 ? 132U : 4U,
                    .chunks = Chunks::kRandom,
                    .random_batches = true,
                    .adversary = i == 1,
                    .seed = seed + i}});
  }
  return out;
}

TERRAZZO_TEST(bits_depend_on_the_sequence_alone) {
  uint32_t merges = 0;
  for (const uint64_t seed : seeds_to_run(600, 12)) {
    Random random(seed);
    ModelShape shape = tiny_shape(random, kWorlds[seed % std::size(kWorlds)]);
    shape.num_layers = 2;
    const TestModel model(shape, kLimits.max_position, seed);
    const std::vector<Request> requests = random_requests(random, shape);
    std::vector<Result> expected;
    for (const Request& request : requests) {
      const std::vector<Request> alone = {request};
      expected.push_back(Generation(model, alone, {}).run()[0]);
    }
    for (const auto& [name, schedule] : schedules(seed)) {
      Generation generation(model, requests, schedule);
      const std::vector<Result> seen = generation.run();
      merges += generation.num_merges();
      for (size_t i = 0; i < requests.size(); ++i) {
        if (!(seen[i] == expected[i])) {
          report_seed(__FILE__, __LINE__, seed, name + ": sequence " + std::to_string(i));
        }
      }
    }
  }
  CHECK(!runs_all_seeds() || merges > 100);
}

/// The comparison is not blind: other noise, or another token in the prompt, gives other bits.
TERRAZZO_TEST(other_requests_have_other_bits) {
  Random random(7);
  const ModelShape shape = tiny_shape(random, 2);
  const TestModel model(shape, kLimits.max_position, 7);
  std::vector<Request> requests = random_requests(random, shape);
  const std::vector<Result> expected = Generation(model, requests, {}).run();
  requests[2].prompt[3] = (requests[2].prompt[3] + 1) % static_cast<int32_t>(shape.vocab);
  const std::vector<Result> changed = Generation(model, requests, {}).run();
  CHECK(changed[0] == expected[0]);
  CHECK(changed[1] == expected[1]);
  CHECK(changed[2].logits != expected[2].logits);
}

}  // namespace
}  // namespace terrazzo::testing
