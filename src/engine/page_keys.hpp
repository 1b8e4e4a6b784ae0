// Keys of KV pages: what a page is found by when another prompt begins with the same tokens.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace terrazzo {

using PageKey = std::array<uint8_t, 16>;

/// The key of each full page of `tokens`: BLAKE2b (RFC 7693, 128 bits) of the key before it and of
/// the page's tokens as int32, little endian. `parent`, the first page's key before, is empty at
/// the start of a sequence. Tokens behind the last full page do not count.
std::vector<PageKey> page_keys(std::span<const int32_t> tokens, std::span<const uint8_t> parent);

}  // namespace terrazzo
