// Steps and models of the benchmarks: what their command lines name.
#pragma once

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "lower/step_request.hpp"
#include "terrazzo/core/check.hpp"
#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/shape.hpp"

namespace terrazzo {

/// Sequences that are alike.
struct SequenceGroup {
  uint32_t sequences;
  uint32_t rows;     // of each in this step
  uint32_t context;  // tokens of each that are cached

  uint32_t pages_each() const { return ceil_div(context + rows, kPageTokens); }
};

/// "1024@448,2x512@0": 1024 sequences that decode after 448 cached tokens, then 2 prompt chunks of
/// 512 tokens. Or, for steps of one group, d1024x449 (decoding, at context 449 with the new token)
/// and p2x512.
struct StepKind {
  std::string name;  // in the first form
  std::vector<SequenceGroup> groups;

  uint32_t sequences() const {
    uint32_t count = 0;
    for (const SequenceGroup& group : groups) {
      count += group.sequences;
    }
    return count;
  }
  uint32_t rows() const {
    uint32_t count = 0;
    for (const SequenceGroup& group : groups) {
      count += group.sequences * group.rows;
    }
    return count;
  }
  /// Keys and values that decoding sequences read, in tokens.
  uint64_t decode_tokens() const {
    uint64_t count = 0;
    for (const SequenceGroup& group : groups) {
      count += group.rows == 1 ? uint64_t{group.sequences} * (group.context + 1) : 0;
    }
    return count;
  }
};

inline std::string name_of(const SequenceGroup& group) {
  return std::to_string(group.sequences) +
         (group.rows > 1 ? "x" + std::to_string(group.rows) : std::string()) + "@" +
         std::to_string(group.context);
}

/// False if the text is no step.
inline bool parse_step(const std::string& text, StepKind& kind) {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  kind = {};
  if (std::sscanf(text.c_str(), "d%ux%u", &a, &b) == 2 && b > 0) {
    kind.groups.push_back({a, 1, b - 1});
  } else if (std::sscanf(text.c_str(), "p%ux%u", &a, &b) == 2) {
    kind.groups.push_back({a, b, 0});
  } else {
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find(',', at), text.size());
      const std::string part = text.substr(at, end - at);
      if (std::sscanf(part.c_str(), "%ux%u@%u", &a, &b, &c) == 3) {
        kind.groups.push_back({a, b, c});
      } else if (std::sscanf(part.c_str(), "%u@%u", &a, &b) == 2) {
        kind.groups.push_back({a, 1, b});
      } else {
        return false;
      }
      at = end + 1;
    }
  }
  for (const SequenceGroup& group : kind.groups) {
    kind.name += (kind.name.empty() ? "" : ",") + name_of(group);
  }
  return !kind.groups.empty();
}

/// Shares of a 70B model run as plain models of their sizes (docs/performance/h100.md).
inline ModelShape shape_named(const std::string& name) {
  ModelShape shape{.num_layers = 32,
                   .hidden = 4096,
                   .intermediate = 14336,
                   .num_heads = 32,
                   .num_kv_heads = 8,
                   .head_dim = 128,
                   .vocab = 128256,
                   .norm_eps = 1e-5F,
                   .world = 1,
                   .split_tokens = 2048};
  if (name == "8b") {
    return shape;
  }
  shape.hidden = 8192;
  if (name == "70b-tp2") {
    shape.num_kv_heads = 4;
    shape.vocab = 64128;
    return shape;
  }
  check(name == "70b-tp8", "bench_step", "shape: expected 8b, 70b-tp2 or 70b-tp8, got ", name);
  shape.intermediate = 3584;
  shape.num_heads = 8;
  shape.num_kv_heads = 1;
  shape.vocab = 16064;
  return shape;
}

/// The arrays of a step; page tables never alias.
struct StepArrays {
  std::vector<int32_t> tokens, lens, contexts, indptr{0}, pages, logit_rows, top_k, output_position;
  std::vector<float> temperature, top_p;
  std::vector<uint64_t> seed;
  std::vector<uint8_t> want_logits;

  StepArrays(const StepKind& kind, uint32_t vocab, std::mt19937_64& random) {
    for (const SequenceGroup& group : kind.groups) {
      for (uint32_t s = 0; s < group.sequences; ++s) {
        lens.push_back(static_cast<int32_t>(group.rows));
        contexts.push_back(static_cast<int32_t>(group.context));
        for (uint32_t i = 0; i < group.rows; ++i) {
          tokens.push_back(static_cast<int32_t>(random() % vocab));
        }
        for (uint32_t page = 0; page < group.pages_each(); ++page) {
          pages.push_back(static_cast<int32_t>(pages.size()));
        }
        indptr.push_back(static_cast<int32_t>(pages.size()));
        logit_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
      }
    }
    std::shuffle(pages.begin(), pages.end(), random);
    const size_t sequences = lens.size();
    temperature.assign(sequences, 0.0F);
    top_p.assign(sequences, 1.0F);
    top_k.assign(sequences, 0);
    output_position.assign(sequences, 0);
    seed.assign(sequences, 1);
    want_logits.assign(sequences, 0);
  }

  StepRequest request() const {
    return {tokens,      lens,  contexts, indptr, pages,           logit_rows,
            temperature, top_k, top_p,    seed,   output_position, want_logits};
  }
};

/// Limits that fit each of these steps.
inline StepLimits limits_for(const std::vector<StepKind>& kinds) {
  StepLimits limits{};
  limits.max_partials = 4096;
  for (const StepKind& kind : kinds) {
    limits.max_rows = std::max(limits.max_rows, kind.rows());
    limits.max_sequences = std::max(limits.max_sequences, kind.sequences());
    uint32_t pages = 0;
    for (const SequenceGroup& group : kind.groups) {
      limits.max_position = std::max(limits.max_position, group.context + group.rows + 1);
      pages += group.sequences * group.pages_each();
    }
    limits.num_pages = std::max(limits.num_pages, pages);
  }
  return limits;
}

}  // namespace terrazzo
