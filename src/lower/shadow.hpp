// Shadow memory of a step: replays the declared accesses in one topological order and finds those
// that conflict without being ordered, and reads of bytes that nothing wrote.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lower/accesses.hpp"
#include "lower/happens_before.hpp"

namespace terrazzo {

class Shadow {
 public:
  /// `sampled_rows`: how many rows the step before this one sampled.
  Shadow(const LoweredStep& step, const ModelShape& shape, const StepLimits& limits,
         const HappensBefore& order, uint32_t layers, uint32_t sampled_rows);

  /// At most `max_problems`.
  std::vector<Problem> run(uint32_t max_problems);

 private:
  /// Readers since the last write: a list in `readers_`.
  struct Cell {
    uint32_t writer;
    uint32_t readers;
  };
  struct Reader {
    uint32_t node;
    uint32_t next;
  };
  /// One buffer of one GPU, cut where any access begins or ends. The KV pool has the same cuts in
  /// each layer, and cells of its own for each.
  struct Space {
    std::vector<uint64_t> cuts;
    std::vector<std::vector<Cell>> cells;  // [layer of the KV pool, else 0][cut]
  };

  Space& space_of(const Access& access) {
    return spaces_[access.gpu * kNumBuffers + static_cast<uint32_t>(access.buffer)];
  }
  /// Offset within a layer for the KV pool; the layer is the second.
  std::pair<uint64_t, uint32_t> fold(const Access& access) const;

  template <class Sink>
  void for_each_access_of(uint32_t node, Sink&& sink) const;
  /// Calls sink(access) for the bytes that an earlier step may have written and this one may read.
  template <class Sink>
  void for_each_history(Sink&& sink) const;

  void cut();
  void apply_history();
  void apply(uint32_t node, const Access& access);
  void read(uint32_t node, const Access& access, Cell& cell);
  void write(uint32_t node, const Access& access, Cell& cell);
  void report(ProblemKind kind, uint32_t node, const Access& access, const std::string& what);
  void report_race(uint32_t first, uint32_t second, const Access& access, const char* what);

  const LoweredStep& step_;
  const ModelShape& shape_;
  const StepLimits& limits_;
  const HappensBefore& order_;
  HeapLayout layout_;
  StepTables tables_;
  uint32_t layers_;
  uint32_t sampled_rows_;
  uint32_t max_problems_ = 0;
  std::vector<Space> spaces_;  // [gpu][buffer]
  std::vector<Reader> readers_;
  std::vector<Problem> problems_;
};

}  // namespace terrazzo
