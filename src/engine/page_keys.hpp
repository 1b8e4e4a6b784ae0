// Keys of KV pages: what a page is found by when another prompt begins with the same tokens.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace terrazzo {

using PageKey = std::array<uint8_t, 16>;

/// The key of each full page of `tokens`: BLAKE2b (RFC 7693) with 128 bits of its tokens as int32,
/// little endian, salted with the key before it, so that a page is hashed in two blocks. `parent`,
/// the key before the first page, is empty at the start of a sequence. Tokens behind the last full
/// page do not count.
std::vector<PageKey> page_keys(std::span<const int32_t> tokens, std::span<const uint8_t> parent);

}  // namespace terrazzo
