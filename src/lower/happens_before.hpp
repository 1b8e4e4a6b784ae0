// Which instruction of a step is certain to be complete before which other one starts.
//
// Happens-before comes from counters alone: a wait whose target is the sum of all signals of its
// counters starts after every instruction that signals them. Queue order orders nothing, because
// several SMs share a queue. So it suffices to know, for each counter, which counters must be
// complete before it: one bit for each pair of counters, far fewer than pairs of instructions.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "lower/lowered_step.hpp"

namespace terrazzo {

enum class ProblemKind : uint32_t {
  kTables,     // the step's tables contradict each other or the limits
  kOperands,   // an operand out of range, or at odds with the tables
  kCounter,    // a wait or signal outside the bank, or to GPUs that do not exist
  kTarget,     // a target that is not the sum of the signals
  kUnawaited,  // a signal that nobody waits for
  kDeadlock,   // the queue order blocks with one SM a GPU
  kBounds,     // an access outside its buffer
  kRace,       // two conflicting accesses in no order
  kUnwritten,  // a read of bytes that nothing wrote before it
  kHistory,    // a write to cached tokens of an earlier step
  kEnd,        // an instruction that may outlive its GPU's step_end
};

struct Problem {
  ProblemKind kind;
  std::string text;
};

class HappensBefore {
 public:
  struct Node {
    uint32_t gpu;
    uint32_t position;  // in the queue
    QueuePlace place;
  };

  /// Takes the first `layers` layers of the body. With problems, no order is known.
  HappensBefore(const LoweredStep& step, uint32_t layers, uint32_t max_problems);

  const std::vector<Problem>& problems() const { return problems_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  /// Node indices, each after all those that it needs.
  const std::vector<uint32_t>& order() const { return order_; }

  /// True when `first` is complete before `second` starts, in every run.
  bool before(uint32_t first, uint32_t second) const;
  /// Nodes of one class have the same waits and signals: they are ordered alike against all others.
  uint32_t node_class(uint32_t node) const { return class_[node]; }

  /// "gpu 1, queue 345 (layer 2, o_proj_residual)".
  std::string describe(uint32_t node) const;

 private:
  /// What a class of nodes waits for and signals.
  struct NodeClass {
    std::vector<uint32_t> signals;  // counters
    std::vector<uint64_t>
        ancestors;  // a bit a counter: complete before any node of the class starts
  };

  void number_nodes();
  void add_up_signals();
  void check_waits();
  void check_unawaited();
  /// Fills `order_`, and the classes along it.
  void sort();
  void report_deadlock(const std::vector<uint32_t>& blockers);
  void classify(uint32_t node);
  void report(ProblemKind kind, std::string text);
  std::string counter_name(uint32_t counter) const;
  uint32_t counter_at(uint32_t gpu, int32_t layer, int32_t relative) const;

  /// Calls visit(counter) for each counter that the node signals (or waits for) and that exists.
  template <class Visit>
  void for_each_signal(const Node& node, const Visit& visit) const;
  template <class Visit>
  void for_each_wait(const Node& node, const Visit& visit) const;

  const LoweredStep& step_;
  uint32_t layers_;
  uint32_t max_problems_;
  uint32_t per_gpu_;  // counters of one GPU
  std::vector<Problem> problems_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> first_node_;  // [gpu + 1]
  std::vector<uint32_t> sums_;        // [counter] of all increments
  std::vector<uint32_t> signallers_;  // [counter]
  std::vector<uint32_t> waiters_;     // [counter]
  std::vector<uint32_t> order_;
  std::vector<uint32_t> class_;  // [node]
  std::vector<NodeClass> classes_;
  std::unordered_map<std::string, uint32_t> class_ids_;  // by the bytes of waits and signals
  std::vector<std::vector<uint64_t>> completed_;  // [counter] itself and all counters before it
  std::vector<uint32_t> merged_class_;            // [counter] the class merged into it last
};

}  // namespace terrazzo
