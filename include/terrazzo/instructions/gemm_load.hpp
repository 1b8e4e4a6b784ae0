// How the loader streams a GEMM's operands, in the order of GemmStream.
#pragma once

#include "terrazzo/instructions/gemm_stream.hpp"
#include "terrazzo/vm/loader.hpp"

namespace terrazzo {

template <class M>
TERRAZZO_GROUP_FN void load_plain(Loader<M>& loader, const GemmStream& stream,
                                  const std::byte* weights, uint64_t weight_stride,
                                  const std::byte* tokens) {
  const uint32_t token_bytes = stream.rows * kRowBytes;
  const uint32_t first_bytes = stream.first_panels() * kHalfPanelBytes;
  const uint32_t second_bytes = stream.panels * kHalfPanelBytes - first_bytes;
  loader.by_one_lane(GemmStream::plain_slots_per_k(stream.panels) * stream.k_panels,
                     [&](auto& slots) TERRAZZO_LAMBDA {
                       if (second_bytes == 0) {
                         for (uint32_t k = 0; k < stream.k_panels; ++k) {
                           slots.fill({tokens, weights}, {token_bytes, first_bytes});
                           tokens += kPanelBytes;
                           weights += weight_stride;
                         }
                         return;
                       }
                       for (uint32_t k = 0; k < stream.k_panels; ++k) {
                         slots.fill({tokens, weights, weights + first_bytes},
                                    {token_bytes, first_bytes, second_bytes});
                         tokens += kPanelBytes;
                         weights += weight_stride;
                       }
                     });
}

/// Token slots of several k tiles, each followed by these k tiles' weights. Few tokens wait for
/// every tile of the instructions before: the first weights are on their way by then.
template <class M>
TERRAZZO_GROUP_FN void load_small(Loader<M>& loader, const GemmStream& stream,
                                  const std::byte* weights, uint64_t weight_stride,
                                  const std::byte* tokens) {
  const auto least = [](uint32_t a, uint32_t b) TERRAZZO_LAMBDA { return a < b ? a : b; };
  const uint32_t row_bytes = stream.rows * kRowBytes;
  const uint32_t first_bytes = stream.first_panels() * kHalfPanelBytes;
  const uint32_t second_bytes = stream.panels * kHalfPanelBytes - first_bytes;
  loader.by_one_lane(stream.slots(0).count, [&](auto& slots) TERRAZZO_LAMBDA {
    for (uint32_t begin = 0; begin < stream.k_panels; begin += stream.k_per_token_slot()) {
      const uint32_t count = least(stream.k_per_token_slot(), stream.k_panels - begin);
      const auto token_slot = slots.fill(count * row_bytes);
      const auto copy_tokens = [&]() TERRAZZO_LAMBDA {
        for (uint32_t k = 0; k < count; ++k, tokens += kPanelBytes) {
          slots.copy(token_slot, k * stream.token_bytes(), tokens, row_bytes);
        }
      };
      if (begin != 0) {
        copy_tokens();
      }
      if (stream.panels == 1) {
        uint32_t left = count;
        for (; left >= 8; left -= 8, weights += 8 * weight_stride) {
          slots.template fill_strided<4, 2>(weights, weight_stride, kHalfPanelBytes);
        }
        for (; left >= 2; left -= 2, weights += 2 * weight_stride) {
          slots.template fill_strided<1, 2>(weights, weight_stride, kHalfPanelBytes);
        }
        if (left != 0) {
          slots.template fill_strided<1, 1>(weights, weight_stride, kHalfPanelBytes);
          weights += weight_stride;
        }
      } else if (second_bytes == 0) {
        uint32_t left = count;
        for (; left >= 2; left -= 2, weights += 2 * weight_stride) {
          slots.template fill_strided<2, 1>(weights, weight_stride, first_bytes);
        }
        if (left != 0) {
          slots.template fill_strided<1, 1>(weights, weight_stride, first_bytes);
          weights += weight_stride;
        }
      } else {
        uint32_t left = count;
        for (; left >= 2; left -= 2, weights += 2 * weight_stride) {
          const std::byte* const next = weights + weight_stride;
          slots.fill({weights, weights + first_bytes, next, next + first_bytes},
                     {first_bytes, second_bytes, first_bytes, second_bytes});
        }
        if (left != 0) {
          slots.fill({weights, weights + first_bytes}, {first_bytes, second_bytes});
          weights += weight_stride;
        }
      }
      if (begin == 0) {
        loader.wait_all_from_lane();
        copy_tokens();
      }
    }
  });
}

/// For one panel and many tokens: token slots and weight slots of two k tiles each in turn.
template <class M>
TERRAZZO_GROUP_FN void load_small_paired(Loader<M>& loader, const GemmStream& stream,
                                         const std::byte* weights, uint64_t weight_stride,
                                         const std::byte* tokens) {
  constexpr uint32_t kPairs = 2;  // filled at a time
  const uint32_t row_bytes = stream.rows * kRowBytes;
  const uint32_t token_bytes = stream.token_bytes();
  loader.by_one_lane(stream.slots(0).count, [&](auto& slots) TERRAZZO_LAMBDA {
    bool waited = false;
    const auto wait_once = [&]() TERRAZZO_LAMBDA {
      if (!waited) {
        loader.wait_all_from_lane();
        waited = true;
      }
    };
    uint32_t left = stream.k_panels;
    for (; left >= 2 * kPairs; left -= 2 * kPairs) {
      typename M::Slot pair[2 * kPairs];
      slots.fill(pair, {2 * row_bytes, kSlotBytes, 2 * row_bytes, kSlotBytes});
      TERRAZZO_UNROLL
      for (uint32_t k = 0; k < 2 * kPairs; ++k, weights += weight_stride) {
        slots.copy(pair[k / 2 * 2 + 1], k % 2 * kHalfPanelBytes, weights, kHalfPanelBytes);
      }
      wait_once();
      TERRAZZO_UNROLL
      for (uint32_t k = 0; k < 2 * kPairs; ++k, tokens += kPanelBytes) {
        slots.copy(pair[k / 2 * 2], k % 2 * token_bytes, tokens, row_bytes);
      }
    }
    while (left != 0) {
      const uint32_t count = left < 2 ? left : 2;
      typename M::Slot pair[2];
      slots.fill(pair, {count * row_bytes, count * kHalfPanelBytes});
      for (uint32_t k = 0; k < count; ++k, weights += weight_stride) {
        slots.copy(pair[1], k * kHalfPanelBytes, weights, kHalfPanelBytes);
      }
      wait_once();
      for (uint32_t k = 0; k < count; ++k, tokens += kPanelBytes) {
        slots.copy(pair[0], k * token_bytes, tokens, row_bytes);
      }
      left -= count;
    }
  });
}

/// What a GEMM instruction streams.
struct GemmInput {
  Matrix matrix;
  uint32_t layer;           // of the matrix
  const std::byte* tokens;  // the [128, 64] tile of the rows' first k panel; the others follow it
  Buffer beside;            // for its epilogue: of row factors' sums of squares, or of residuals
};

/// Executes the instruction's waits and streams weights and tokens; what does not change during a
/// step may come before the waits. The addresses advance by constant strides: the loader has no
/// time to work them out for each slot.
template <class M>
TERRAZZO_GROUP_FN void load_products(Loader<M>& loader, const GemmInput& input) {
  const GemmStream stream(loader.instruction());
  const uint32_t panel = loader.instruction().args.gemm.first_panel;
  const WeightView& weight = loader.params.model.matrix(input.matrix);
  const std::byte* const weights = weight.at(input.layer, panel, 0);
  const auto weight_stride = static_cast<uint64_t>(weight.at(input.layer, panel, 1) - weights);
  if (!stream.small) {
    loader.wait_all();
    load_plain(loader, stream, weights, weight_stride, input.tokens);
    return;
  }
  if (stream.panels == 1 && stream.many_tokens()) {
    load_small_paired(loader, stream, weights, weight_stride, input.tokens);
  } else {
    load_small(loader, stream, weights, weight_stride, input.tokens);
  }
  loader.share_acquired();
}

}  // namespace terrazzo
