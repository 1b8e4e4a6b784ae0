// What `terrazzo calibrate` fits to: a line of JSON for each launch that was timed, and the events
// of some launches.
#pragma once

#include <algorithm>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "lower/lowered_step.hpp"
#include "terrazzo/core/check.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo {

/// What was run: the model, the step as the command line names it, and the order.
struct RunRecord {
  ModelShape shape;
  std::string step;
  uint32_t num_sms;
  std::string order = "plain";  // or a split block and two percents: "4:80:95"
  std::string kind = "";        // the one kind of instruction that ran, without waits; empty: all
  double ms = 0;                // of a launch, median
};

inline std::string to_json(const RunRecord& run) {
  const ModelShape& s = run.shape;
  char text[640];
  std::snprintf(text, sizeof text,
                "{\"shape\": {\"num_layers\": %u, \"hidden\": %u, \"intermediate\": %u, "
                "\"num_heads\": %u, \"num_kv_heads\": %u, \"head_dim\": %u, \"vocab\": %u, "
                "\"norm_eps\": %g, \"world\": %u, \"split_tokens\": %u, \"o_sharded\": %s}, "
                "\"step\": \"%s\", "
                "\"num_sms\": %u, \"order\": \"%s\", \"kind\": \"%s\", \"ms\": %.5f}",
                s.num_layers, s.hidden, s.intermediate, s.num_heads, s.num_kv_heads, s.head_dim,
                s.vocab, double{s.norm_eps}, s.world, s.split_tokens,
                s.o_sharded ? "true" : "false", run.step.c_str(), run.num_sms, run.order.c_str(),
                run.kind.c_str(), run.ms);
  return text;
}

class ArchiveFile {
 public:
  ArchiveFile(const std::string& path, const char* mode) : file_(std::fopen(path.c_str(), mode)) {
    check(file_ != nullptr, "bench_step", "cannot write ", path);
  }
  ArchiveFile(const ArchiveFile&) = delete;
  ArchiveFile& operator=(const ArchiveFile&) = delete;
  ~ArchiveFile() { std::fclose(file_); }
  std::FILE* get() const { return file_; }

 private:
  std::FILE* file_;
};

/// Appends the line of a launch.
inline void append_record(const std::string& path, const RunRecord& run) {
  const ArchiveFile file(path, "a");
  std::fprintf(file.get(), "%s\n", to_json(run).c_str());
}

/// Events in the order of role and position, after a line that says what ran, in columns that
/// compress well: each a run of 32-bit differences from event to event, lowest bytes of all of them
/// first. Columns: role, position, layer, opcode, SM, begin, and (no difference) duration; times in
/// ns.
inline void write_events(const std::string& path, const RunRecord& run,
                         std::vector<TraceEvent> events) {
  std::sort(events.begin(), events.end(), [](const TraceEvent& a, const TraceEvent& b) {
    return a.role != b.role ? a.role < b.role : a.position < b.position;
  });
  // Each warp of a role leaves an event: one for all of them.
  size_t kept = 0;
  for (const TraceEvent& event : events) {
    if (kept > 0 && events[kept - 1].role == event.role &&
        events[kept - 1].position == event.position) {
      events[kept - 1].begin_ns = std::min(events[kept - 1].begin_ns, event.begin_ns);
      events[kept - 1].end_ns = std::max(events[kept - 1].end_ns, event.end_ns);
    } else {
      events[kept++] = event;
    }
  }
  events.resize(kept);
  const ArchiveFile file(path, "wb");
  std::fprintf(file.get(), "%s\n", to_json(run).c_str());
  const auto column = [&](bool difference, auto value_of) {
    std::vector<uint32_t> values;
    int64_t last = 0;
    for (const TraceEvent& event : events) {
      const int64_t value = value_of(event);
      values.push_back(static_cast<uint32_t>(difference ? value - last : value));
      last = value;
    }
    std::vector<unsigned char> bytes;
    for (uint32_t shift = 0; shift < 32; shift += 8) {
      for (const uint32_t value : values) {
        bytes.push_back(static_cast<unsigned char>(value >> shift));
      }
    }
    check(std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size(), "bench_step",
          "cannot write ", path);
  };
  column(true, [](const TraceEvent& e) { return static_cast<int64_t>(e.role); });
  column(true, [](const TraceEvent& e) { return static_cast<int64_t>(e.position); });
  column(true, [](const TraceEvent& e) { return static_cast<int64_t>(e.layer); });
  column(true, [](const TraceEvent& e) { return static_cast<int64_t>(e.opcode); });
  column(true, [](const TraceEvent& e) { return static_cast<int64_t>(e.sm); });
  const uint64_t start = events.empty() ? 0 : events.front().begin_ns;
  column(true, [&](const TraceEvent& e) { return static_cast<int64_t>(e.begin_ns - start); });
  column(false, [](const TraceEvent& e) { return static_cast<int64_t>(e.end_ns - e.begin_ns); });
}

}  // namespace terrazzo
