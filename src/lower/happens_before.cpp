#include "lower/happens_before.hpp"

#include <algorithm>
#include <utility>

#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kNone = 0xffffffffu;
constexpr uint32_t kWordBits = 64;

void merge_bits(std::vector<uint64_t>& into, const std::vector<uint64_t>& from) {
  for (size_t i = 0; i < from.size(); ++i) {
    into[i] |= from[i];
  }
}

bool in_block(const CounterMap& counters, int32_t first, uint32_t count) {
  return first >= 0 && static_cast<uint32_t>(first) + count <= counters.size();
}

}  // namespace

HappensBefore::HappensBefore(const LoweredStep& step, uint32_t layers, uint32_t max_problems)
    : step_(step),
      layers_(layers),
      max_problems_(max_problems),
      per_gpu_(step.counters_per_block() * (layers + 2)) {
  number_nodes();
  add_up_signals();
  check_waits();
  check_unawaited();
  if (problems_.empty()) {
    sort();
  }
}

void HappensBefore::number_nodes() {
  for (uint32_t gpu = 0; gpu < step_.gpus.size(); ++gpu) {
    ProgramView program = step_.view(gpu);
    program.num_layers = layers_;
    first_node_.push_back(static_cast<uint32_t>(nodes_.size()));
    for (uint32_t position = 0; position < program.queue_size(); ++position) {
      nodes_.push_back({gpu, position, place_of(program, position)});
    }
  }
  first_node_.push_back(static_cast<uint32_t>(nodes_.size()));
}

uint32_t HappensBefore::counter_at(uint32_t gpu, int32_t layer, int32_t relative) const {
  const int64_t index = int64_t{layer + 1} * step_.counters_per_block() + relative;
  return index < 0 || index >= int64_t{per_gpu_} ? kNone
                                                 : gpu * per_gpu_ + static_cast<uint32_t>(index);
}

template <class Visit>
void HappensBefore::for_each_signal(const Node& node, const Visit& visit) const {
  if (node.place.skip) {
    return;
  }
  for (const Signal& signal : node.place.instruction->signals) {
    for (uint32_t gpu = 0; gpu < step_.gpus.size(); ++gpu) {
      for (int32_t i = 0; (signal.gpus >> gpu & 1) != 0 && i < signal.count; ++i) {
        visit(counter_at(gpu, node.place.layer, signal.first + i), signal);
      }
    }
  }
}

template <class Visit>
void HappensBefore::for_each_wait(const Node& node, const Visit& visit) const {
  if (node.place.skip) {
    return;
  }
  for (const Wait& wait : node.place.instruction->waits) {
    for (int32_t i = 0; i < wait.count; ++i) {
      visit(counter_at(node.gpu, node.place.layer, wait.first + i), wait);
    }
  }
}

void HappensBefore::add_up_signals() {
  sums_.resize(step_.gpus.size() * per_gpu_);
  signallers_.resize(sums_.size());
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    for (const Signal& signal : nodes_[i].place.instruction->signals) {
      const bool good = in_block(step_.counters, signal.first, signal.count) &&
                        signal.increment > 0 && signal.gpus > 0 &&
                        signal.gpus >> step_.gpus.size() == 0;
      if (signal.count > 0 && !good) {
        report(ProblemKind::kCounter,
               describe(i) + ": signals counters [" + std::to_string(signal.first) + ", +" +
                   std::to_string(signal.count) + ") by " + std::to_string(signal.increment) +
                   " on GPU mask " + std::to_string(signal.gpus) + "; a block has " +
                   std::to_string(step_.counters_per_block()));
        return;
      }
    }
    for_each_signal(nodes_[i], [&](uint32_t counter, const Signal& signal) {
      sums_[counter] += kNumConsumers * signal.increment;
      ++signallers_[counter];
    });
  }
}

void HappensBefore::check_waits() {
  waiters_.resize(sums_.size());
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    for_each_wait(nodes_[i], [&](uint32_t counter, const Wait& wait) {
      if (counter == kNone) {
        report(ProblemKind::kCounter, describe(i) + ": waits for a counter outside the bank");
        return;
      }
      ++waiters_[counter];
      if (wait.target != sums_[counter]) {
        report(ProblemKind::kTarget, describe(i) + ": waits for " + counter_name(counter) +
                                         " to reach " + std::to_string(wait.target) +
                                         ", but its signals add up to " +
                                         std::to_string(sums_[counter]));
      }
    });
  }
}

void HappensBefore::check_unawaited() {
  for (uint32_t counter = 0; counter < sums_.size(); ++counter) {
    if (signallers_[counter] > 0 && waiters_[counter] == 0) {
      report(ProblemKind::kUnawaited, counter_name(counter) + ": " +
                                          std::to_string(signallers_[counter]) +
                                          " signals, but nobody waits for them");
    }
  }
}

void HappensBefore::sort() {
  const auto num_counters = static_cast<uint32_t>(sums_.size());
  std::vector<uint32_t> first_waiter(num_counters + 1);  // where each counter's waiters start
  for (uint32_t counter = 0; counter < num_counters; ++counter) {
    first_waiter[counter + 1] = first_waiter[counter] + waiters_[counter];
  }
  std::vector<uint32_t> waiting(first_waiter.back());
  std::vector<uint32_t> next = first_waiter;
  std::vector<uint32_t> blockers(nodes_.size());  // unmet waits, and the queue's predecessor
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    blockers[i] = nodes_[i].position > 0 ? 1 : 0;
    for_each_wait(nodes_[i], [&](uint32_t counter, const Wait&) {
      waiting[next[counter]++] = i;
      ++blockers[i];
    });
  }

  class_.resize(nodes_.size());
  completed_.resize(num_counters);
  merged_class_.assign(num_counters, kNone);
  std::vector<uint32_t> pending = signallers_;
  const auto unblock = [&](uint32_t node) {
    if (--blockers[node] == 0) {
      order_.push_back(node);
    }
  };
  for (size_t gpu = 0; gpu + 1 < first_node_.size(); ++gpu) {
    if (first_node_[gpu] < first_node_[gpu + 1] && blockers[first_node_[gpu]] == 0) {
      order_.push_back(first_node_[gpu]);
    }
  }
  for (size_t done = 0; done < order_.size(); ++done) {
    const uint32_t node = order_[done];
    classify(node);
    for_each_signal(nodes_[node], [&](uint32_t counter, const Signal&) {
      if (--pending[counter] == 0) {
        for (uint32_t i = first_waiter[counter]; i < first_waiter[counter + 1]; ++i) {
          unblock(waiting[i]);
        }
      }
    });
    if (node + 1 < first_node_[nodes_[node].gpu + 1]) {
      unblock(node + 1);
    }
  }
  if (order_.size() < nodes_.size()) {
    report_deadlock(pending);
  }
}

/// Gives the node its class, whose ancestors are now complete, and passes them on to its counters.
void HappensBefore::classify(uint32_t index) {
  const Node& node = nodes_[index];
  std::vector<uint32_t> waits;
  std::vector<uint32_t> signals;
  for_each_wait(node, [&](uint32_t counter, const Wait&) { waits.push_back(counter); });
  for_each_signal(node, [&](uint32_t counter, const Signal&) { signals.push_back(counter); });
  std::string key(reinterpret_cast<const char*>(waits.data()), waits.size() * sizeof(uint32_t));
  key.append(sizeof(uint32_t), '\xff');  // kNone: no counter has this number
  key.append(reinterpret_cast<const char*>(signals.data()), signals.size() * sizeof(uint32_t));
  const auto [entry, added] =
      class_ids_.try_emplace(std::move(key), static_cast<uint32_t>(classes_.size()));
  const uint32_t id = entry->second;
  class_[index] = id;
  const size_t words = ceil_div<size_t>(sums_.size(), kWordBits);
  if (added) {
    std::vector<uint64_t> ancestors(words);
    for (const uint32_t counter : waits) {
      merge_bits(ancestors, completed_[counter]);
    }
    classes_.push_back({std::move(signals), std::move(ancestors)});
  }
  for (const uint32_t counter : classes_[id].signals) {
    if (merged_class_[counter] == id) {
      continue;
    }
    merged_class_[counter] = id;
    if (completed_[counter].empty()) {
      completed_[counter].resize(words);
      completed_[counter][counter / kWordBits] |= uint64_t{1} << counter % kWordBits;
    }
    merge_bits(completed_[counter], classes_[id].ancestors);
  }
}

bool HappensBefore::before(uint32_t first, uint32_t second) const {
  const std::vector<uint64_t>& ancestors = classes_[class_[second]].ancestors;
  for (const uint32_t counter : classes_[class_[first]].signals) {
    if ((ancestors[counter / kWordBits] >> counter % kWordBits & 1) != 0) {
      return true;
    }
  }
  return false;
}

void HappensBefore::report_deadlock(const std::vector<uint32_t>& pending) {
  std::vector<bool> sorted(nodes_.size());
  for (const uint32_t node : order_) {
    sorted[node] = true;
  }
  std::string text = "with one SM a GPU the queues block:";
  for (size_t gpu = 0; gpu + 1 < first_node_.size(); ++gpu) {
    for (uint32_t i = first_node_[gpu]; i < first_node_[gpu + 1]; ++i) {
      if (sorted[i]) {
        continue;
      }
      text += " " + describe(i) + " waits for";
      for_each_wait(nodes_[i], [&](uint32_t counter, const Wait&) {
        text += pending[counter] > 0 ? " " + counter_name(counter) : "";
      });
      text += ";";
      break;
    }
  }
  report(ProblemKind::kDeadlock, std::move(text));
}

void HappensBefore::report(ProblemKind kind, std::string text) {
  if (problems_.size() < max_problems_) {
    problems_.push_back({kind, std::move(text)});
  }
}

std::string HappensBefore::counter_name(uint32_t counter) const {
  const uint32_t block = step_.counters_per_block();
  const uint32_t index = counter % per_gpu_;
  const int32_t layer = static_cast<int32_t>(index / block) - 1;
  return step_.counters.name(index % block) + " (gpu " + std::to_string(counter / per_gpu_) +
         ", layer " + std::to_string(layer) + ")";
}

std::string HappensBefore::describe(uint32_t node) const {
  const Node& at = nodes_[node];
  return "gpu " + std::to_string(at.gpu) + ", queue " + std::to_string(at.position) + " (layer " +
         std::to_string(at.place.layer) + ", " + opcode_name(at.place.instruction->opcode) + ")";
}

}  // namespace terrazzo
