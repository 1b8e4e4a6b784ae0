// Steps as the benchmarks name them, and the files that they leave for `terrazzo calibrate`.
#include <fstream>
#include <iterator>

#include "check.hpp"
#include "simulate/bench_steps.hpp"
#include "simulate/step_archive.hpp"

namespace terrazzo::testing {
namespace {

TERRAZZO_TEST(steps_have_names) {
  StepKind kind;
  CHECK(parse_step("1024@448,2x512@64", kind));
  CHECK_EQ(kind.name, "1024@448,2x512@64");
  CHECK_EQ(kind.rows(), 2048U);
  CHECK_EQ(kind.sequences(), 1026U);
  CHECK_EQ(kind.decode_tokens(), uint64_t{1024 * 449});
  CHECK_EQ(limits_for({kind}).num_pages, 1024U * 8 + 2 * 9);
  CHECK(parse_step("d64x512", kind));
  CHECK_EQ(kind.name, "64@511");
  CHECK(parse_step("p8x1024", kind));
  CHECK_EQ(kind.name, "8x1024@0");
  for (const char* wrong : {"", "64", "64@", "x@3", "64@511,nonsense"}) {
    CHECK(!parse_step(wrong, kind));
  }
}

TERRAZZO_TEST(an_archived_event_can_be_read_back) {
  const std::string path = "test_step_archive.events";
  std::vector<TraceEvent> events(3);
  events[0] = {5000, 5400, 0, 7, -1, 3, 0, RoleKind::kConsumer0, Opcode::kEmbed, 0};
  events[1] = {5010, 5500, 0, 7, -1, 3, 0, RoleKind::kConsumer0, Opcode::kEmbed, 0};  // a warp
  events[2] = {4000, 4100, 0, 9, 2, 131, 0, RoleKind::kLoader, Opcode::kSample, 0};
  RunRecord run{shape_named("70b-tp8"), "64@511", 132};
  run.ms = 1.5;
  write_events(path, run, events);
  std::ifstream file(path, std::ios::binary);
  std::string line;
  std::getline(file, line);
  CHECK_EQ(line, to_json(run));
  CHECK(line.find("\"intermediate\": 3584") != std::string::npos);
  CHECK(line.find("\"ms\": 1.50000}") != std::string::npos);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  // Warps are one event; 7 columns of 4 bytes for each of the two that are left.
  CHECK_EQ(bytes.size(), size_t{2 * 7 * 4});
  const auto value = [&](uint32_t column, uint32_t event) {
    uint32_t out = 0;
    for (uint32_t byte = 0; byte < 4; ++byte) {
      out |= uint32_t{static_cast<unsigned char>(bytes[(column * 4 + byte) * 2 + event])}
             << 8 * byte;
    }
    return static_cast<int32_t>(out);
  };
  CHECK_EQ(value(0, 0), int32_t{1});  // the loader comes first; then differences
  CHECK_EQ(value(0, 1), int32_t{1});
  CHECK_EQ(value(1, 0), 9);
  CHECK_EQ(value(1, 1), -2);
  CHECK_EQ(value(2, 1), -3);
  CHECK_EQ(value(4, 0), 131);
  CHECK_EQ(value(5, 0), 0);
  CHECK_EQ(value(5, 1), 1000);
  CHECK_EQ(value(6, 0), 100);
  CHECK_EQ(value(6, 1), 500);  // from the first warp's begin to the last one's end
  file.close();
  std::remove(path.c_str());
}

}  // namespace
}  // namespace terrazzo::testing
