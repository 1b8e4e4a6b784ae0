// The work of instructions: against cases worked out by hand, and against the declared accesses.
#include "check.hpp"
#include "lower/accesses.hpp"
#include "lower/steps.hpp"
#include "lower/work.hpp"

namespace terrazzo::testing {
namespace {

/// 4 query heads a KV head of 128 dimensions; hidden 4096, intermediate 14336.
ModelShape shape_8b(uint32_t world = 1) {
  return {.num_layers = 32,
          .hidden = 4096,
          .intermediate = 14336,
          .num_heads = 32,
          .num_kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .norm_eps = 1e-5F,
          .world = world,
          .split_tokens = 2048};
}

Instruction gemm(Opcode opcode, uint32_t rows, uint32_t panels, uint32_t k_panels, bool small) {
  Instruction instruction{};
  instruction.opcode = opcode;
  instruction.flags = small ? kSmallTokens : 0;
  instruction.args.gemm = {0, rows, 0, panels, k_panels};
  return instruction;
}

TERRAZZO_TEST(work_of_a_whole_gemm_tile) {
  const WorkTable table(shape_8b(), {});
  const Work work = table.of(gemm(Opcode::kGateUpSilu, 128, 4, 64, false), 0);
  CHECK_EQ(work.flops, 2.0 * 128 * 256 * 4096);
  CHECK_EQ(work.tensor_flops, work.flops);
  CHECK_EQ(work.slots, 3U * 64 + 2);  // 64 lines of sums of squares, 32 a slot
  CHECK_EQ(work.weight_bytes, 256U * 4096 * 2);
  CHECK_EQ(work.load_bytes, (256U + 128) * 4096 * 2 + 64 * 128 * 4);
  CHECK_EQ(work.stages, 4U);  // two panels of silu(gate) * up by two consumers
  CHECK_EQ(work.local_store_bytes, 128U * 128 * 2);
  CHECK_EQ(work.peer_store_bytes, 0U);
}

TERRAZZO_TEST(work_counts_padding_as_issued_only) {
  const WorkTable table(shape_8b(), {});
  const Work plain = table.of(gemm(Opcode::kQkvRopeAppend, 70, 4, 64, false), 0);
  CHECK_EQ(plain.flops, 2.0 * 70 * 256 * 4096);
  CHECK_EQ(plain.tensor_flops, 2.0 * 128 * 256 * 4096);
  const Work small = table.of(gemm(Opcode::kQkvRopeAppend, 5, 2, 64, true), 0);
  CHECK_EQ(small.flops, 2.0 * 5 * 128 * 4096);
  CHECK_EQ(small.tensor_flops, 2.0 * 8 * 128 * 4096);
  // 64 slots of two weight panels, tokens once in 4 of these, sums of squares.
  CHECK_EQ(small.slots, 64U + 16 + 2);
  CHECK_EQ(small.stages, 2U);
}

TERRAZZO_TEST(work_of_peers) {
  const WorkTable table(shape_8b(2), {});
  const uint64_t panels = 4 * (128 * 128 + 128 * 4);
  const Work o = table.of(gemm(Opcode::kOProjResidual, 128, 4, 64, false), 0);
  CHECK_EQ(o.local_store_bytes, panels);
  CHECK_EQ(o.peer_store_bytes, panels);
  CHECK_EQ(o.load_bytes, (256U + 128) * 4096 * 2 + 4 * 128 * 128);
  const Work own = table.of(gemm(Opcode::kDownPartial, 128, 4, 112, false), 0);
  const Work other = table.of(gemm(Opcode::kDownPartial, 128, 4, 112, false), 1);
  CHECK_EQ(own.local_store_bytes, 4U * 128 * 128);
  CHECK_EQ(own.peer_store_bytes, 0U);
  CHECK_EQ(other.local_store_bytes, 0U);
  CHECK_EQ(other.peer_store_bytes, 4U * 128 * 128);
}

TERRAZZO_TEST(work_of_a_sharded_o) {
  ModelShape shape = shape_8b(2);
  shape.o_sharded = true;
  const WorkTable table(shape, {});
  const Work own = table.of(gemm(Opcode::kOPartial, 128, 4, 32, false), 0);
  const Work other = table.of(gemm(Opcode::kOPartial, 128, 4, 32, false), 1);
  CHECK_EQ(own.weight_bytes, 256U * 2048 * 2);
  CHECK_EQ(own.local_store_bytes, 4U * 128 * 128);
  CHECK_EQ(other.peer_store_bytes, 4U * 128 * 128);
  Instruction reduce{};
  reduce.opcode = Opcode::kReduceO;
  reduce.args.reduce = {0, 128, 0, 4};
  const Work sum = table.of(reduce, 0);
  CHECK_EQ(sum.load_bytes, 3U * 4 * 128 * 128);
  CHECK_EQ(sum.peer_store_bytes, 4U * (128 * 128 + 128 * 4));
  Instruction attend{};
  attend.opcode = Opcode::kAttendPrefill;
  attend.args.attend_prefill.rows = 128;
  CHECK_EQ(table.of(attend, 1).peer_store_bytes, 0U);  // its row block is GPU 0's
  shape.o_sharded = false;
  CHECK_EQ(WorkTable(shape, {}).of(attend, 1).peer_store_bytes, 2U * 128 * 128);
}

TERRAZZO_TEST(work_of_attention) {
  std::vector<RowInfo> rows(2);
  rows[0].position = 99;
  rows[1].position = 63;
  const WorkTable table(shape_8b(), {rows.data(), nullptr, nullptr, 2, 0});
  Instruction decode{};
  decode.opcode = Opcode::kAttendDecode;
  decode.args.attend_decode = {0, 2, 0, 0, 1, 0, 3};
  const Work work = table.of(decode, 0);
  CHECK_EQ(work.flops, 4.0 * 128 * 4 * (100 + 64));
  CHECK_EQ(work.tensor_flops, 4.0 * 128 * 8 * (2 + 1) * 64);  // 4 heads padded to 8, whole pages
  CHECK_EQ(work.slots, 2U + 2 * (2 + 1));                     // queries; K and V of each page
  CHECK_EQ(work.kv_bytes, 2U * 128 * 2 * (100 + 64));
  CHECK_EQ(work.local_store_bytes, 2U * 4 * 128 * 2);

  Instruction prefill{};
  prefill.opcode = Opcode::kAttendPrefill;
  prefill.args.attend_prefill = {0, 0, 128, 0, 0, 0, 0};
  const Work causal = table.of(prefill, 0);
  CHECK_EQ(causal.flops, 4.0 * 128 * (128 * 129 / 2));
  CHECK_EQ(causal.tensor_flops, 4.0 * 128 * 64 * (64 + 128));  // the first half skips a page
  CHECK_EQ(causal.slots, 2U + 2 * 2);
  CHECK_EQ(causal.kv_bytes, 2U * 128 * 128 * 2);
  CHECK_EQ(causal.load_bytes, causal.kv_bytes + 128 * 128 * 2);
}

/// Bytes that accesses write here and on peers, and read of the KV pool.
struct Declared {
  uint64_t local = 0;
  uint64_t peer = 0;
  uint64_t cached = 0;
};

TERRAZZO_TEST(work_stores_what_the_accesses_declare) {
  uint32_t seen = 0;
  for (uint64_t seed = 0; seed < 24; ++seed) {
    const TestCase test = random_case(seed, 1U << seed % 4);
    const LoweredStep step = lower(test);
    const StepTables tables = step.tables();
    const WorkTable table(test.shape, tables);
    for (uint32_t gpu = 0; gpu < test.shape.world; ++gpu) {
      for (const auto& segment : step.gpus[gpu].segments) {
        for (const Instruction& instruction : segment) {
          Declared declared;
          for_each_access(instruction, gpu, 0, test.shape, test.limits, tables,
                          [&](const Access& access) {
                            const uint64_t bytes = access.end - access.begin;
                            if (access.mode == AccessMode::kWrite) {
                              (access.gpu == gpu ? declared.local : declared.peer) += bytes;
                            } else if (access.buffer == Buffer::kKvPool) {
                              declared.cached += bytes;
                            }
                          });
          const Work work = table.of(instruction, gpu);
          CHECK_EQ(work.local_store_bytes, declared.local);
          CHECK_EQ(work.peer_store_bytes, declared.peer);
          CHECK_EQ(work.kv_bytes, declared.cached);
          CHECK(work.slots > 0);
          CHECK(work.tensor_flops >= work.flops);
          CHECK(work.load_bytes >= work.weight_bytes + work.kv_bytes);
          CHECK(work.load_bytes <= uint64_t{work.slots} * kSlotBytes);
          seen |= 1U << static_cast<uint32_t>(instruction.opcode);
        }
      }
    }
  }
  CHECK_EQ(seen, (1U << kNumOpcodes) - 1);  // every opcode
}

}  // namespace
}  // namespace terrazzo::testing
