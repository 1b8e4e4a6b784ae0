#include "lower/shadow.hpp"

#include <algorithm>
#include <utility>

#include "lower/lower.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kNone = 0xffffffffu;
constexpr uint32_t kHistory = 0xfffffffeu;  // the writer of what earlier steps left behind

}  // namespace

Shadow::Shadow(const LoweredStep& step, const ModelShape& shape, const StepLimits& limits,
               const HappensBefore& order, uint32_t layers, uint32_t sampled_rows)
    : step_(step),
      shape_(shape),
      limits_(limits),
      order_(order),
      layout_(heap_layout(shape, limits)),
      tables_(step.tables()),
      layers_(layers),
      sampled_rows_(sampled_rows),
      spaces_(static_cast<size_t>(shape.world) * kNumBuffers) {}

std::vector<Problem> Shadow::run(uint32_t max_problems) {
  max_problems_ = max_problems;
  cut();
  if (problems_.empty()) {
    apply_history();
    for (const uint32_t node : order_.order()) {
      for_each_access_of(node, [&](const Access& access) { apply(node, access); });
      if (problems_.size() >= max_problems_) {
        break;
      }
    }
  }
  return std::move(problems_);
}

template <class Sink>
void Shadow::for_each_access_of(uint32_t node, Sink&& sink) const {
  const HappensBefore::Node& at = order_.nodes()[node];
  if (!at.place.skip) {
    for_each_access(*at.place.instruction, at.gpu, at.place.layer, shape_, limits_, tables_, sink);
  }
}

template <class Sink>
void Shadow::for_each_history(Sink&& sink) const {
  for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
    if (sampled_rows_ > 0) {
      sink(Access{gpu, Buffer::kSampled, AccessMode::kWrite, 0,
                  uint64_t{sampled_rows_} * sizeof(SampledToken)});
    }
    for (size_t i = 0; i < step_.rows.size(); ++i) {
      const RowInfo& row = step_.rows[i];
      if (i > 0 && step_.rows[i - 1].page_table_offset == row.page_table_offset) {
        continue;  // not its sequence's first row
      }
      for (uint32_t page = 0; page * kPageTokens < row.position; ++page) {
        for (uint32_t kv_head = 0; kv_head < shape_.local_kv_heads(); ++kv_head) {
          const uint64_t index =
              uint64_t{step_.page_ids[row.page_table_offset + page]} * shape_.local_kv_heads() +
              kv_head;
          for_each_page_range(shape_, index * shape_.page_bytes(),
                              row.position - page * kPageTokens, [&](uint64_t begin, uint64_t end) {
                                sink(Access{gpu, Buffer::kKvPool, AccessMode::kWrite, begin, end});
                              });
        }
      }
    }
  }
}

std::pair<uint64_t, uint32_t> Shadow::fold(const Access& access) const {
  if (access.buffer != Buffer::kKvPool) {
    return {access.begin, 0};
  }
  const uint64_t layer_bytes = kv_layer_bytes(shape_, limits_);
  return {access.begin % layer_bytes, static_cast<uint32_t>(access.begin / layer_bytes)};
}

void Shadow::cut() {
  const auto add = [&](const Access& access) {
    std::vector<uint64_t>& cuts = space_of(access).cuts;
    const uint64_t begin = fold(access).first;
    cuts.push_back(begin);
    cuts.push_back(begin + (access.end - access.begin));
  };
  for_each_history(add);
  for (uint32_t node = 0; node < order_.nodes().size(); ++node) {
    const QueuePlace& place = order_.nodes()[node].place;
    if (place.layer > place.instruction->layer_offset &&
        place.layer < static_cast<int32_t>(layers_)) {
      continue;  // it touches the same bytes in all layers, but for the KV pool, which is folded
    }
    for_each_access_of(node, [&](const Access& access) {
      if (access.end > layout_.size(access.buffer)) {
        report(ProblemKind::kBounds, node, access, "lies outside");
      } else {
        add(access);
      }
    });
  }
  for (size_t i = 0; i < spaces_.size(); ++i) {
    Space& space = spaces_[i];
    std::sort(space.cuts.begin(), space.cuts.end());
    space.cuts.erase(std::unique(space.cuts.begin(), space.cuts.end()), space.cuts.end());
    const bool kv_pool = i % kNumBuffers == static_cast<uint32_t>(Buffer::kKvPool);
    space.cells.resize(kv_pool ? layers_ : 1);
    for (std::vector<Cell>& cells : space.cells) {
      cells.assign(space.cuts.size(), {kNone, kNone});
    }
  }
}

void Shadow::apply_history() {
  for_each_history([&](const Access& access) {
    for (uint32_t layer = 0; layer < space_of(access).cells.size(); ++layer) {
      Space& space = space_of(access);
      const auto first = std::lower_bound(space.cuts.begin(), space.cuts.end(), access.begin);
      for (auto cut = first; *cut < access.end; ++cut) {
        space.cells[layer][static_cast<size_t>(cut - space.cuts.begin())].writer = kHistory;
      }
    }
  });
}

void Shadow::apply(uint32_t node, const Access& access) {
  Space& space = space_of(access);
  const auto [begin, layer] = fold(access);
  const uint64_t end = begin + (access.end - access.begin);
  const auto first = std::lower_bound(space.cuts.begin(), space.cuts.end(), begin);
  const auto index = static_cast<size_t>(first - space.cuts.begin());
  Cell* cell = &space.cells[layer][index];
  for (const uint64_t* cut = &space.cuts[index]; *cut < end; ++cut, ++cell) {
    if (access.mode == AccessMode::kRead) {
      read(node, access, *cell);
    } else {
      write(node, access, *cell);
    }
  }
}

void Shadow::read(uint32_t node, const Access& access, Cell& cell) {
  if (cell.readers != kNone &&
      order_.node_class(readers_[cell.readers].node) == order_.node_class(node)) {
    return;  // ordered exactly as the last reader is
  }
  if (cell.writer == kNone) {
    report(ProblemKind::kUnwritten, node, access, "reads bytes that nothing wrote in");
  } else if (cell.writer != kHistory && cell.writer != node && !order_.before(cell.writer, node)) {
    report_race(cell.writer, node, access, "may read before or while it is written by");
  }
  readers_.push_back({node, cell.readers});
  cell.readers = static_cast<uint32_t>(readers_.size() - 1);
}

void Shadow::write(uint32_t node, const Access& access, Cell& cell) {
  if (cell.writer == kHistory && access.buffer == Buffer::kKvPool) {
    report(ProblemKind::kHistory, node, access, "overwrites cached tokens in");
  } else if (cell.writer < kHistory && cell.writer != node && !order_.before(cell.writer, node)) {
    report_race(cell.writer, node, access, "may write before or while it is written by");
  }
  for (uint32_t i = cell.readers; i != kNone; i = readers_[i].next) {
    if (readers_[i].node != node && !order_.before(readers_[i].node, node)) {
      report_race(readers_[i].node, node, access, "may write before or while it is read by");
    }
  }
  cell = {node, kNone};
}

void Shadow::report(ProblemKind kind, uint32_t node, const Access& access,
                    const std::string& what) {
  if (problems_.size() >= max_problems_) {
    return;
  }
  problems_.push_back({kind, order_.describe(node) + " " + what + " " +
                                 kBufferNames[static_cast<uint32_t>(access.buffer)] + " of gpu " +
                                 std::to_string(access.gpu) + ", bytes [" +
                                 std::to_string(access.begin) + ", " + std::to_string(access.end) +
                                 ")"});
}

void Shadow::report_race(uint32_t first, uint32_t second, const Access& access, const char* what) {
  report(ProblemKind::kRace, second, access, what + (" " + order_.describe(first)) + ":");
}

}  // namespace terrazzo
