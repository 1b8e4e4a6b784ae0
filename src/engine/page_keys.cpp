#include "engine/page_keys.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "terrazzo/core/check.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens are hashed as they lie");

constexpr size_t kBlockBytes = 128;
constexpr size_t kPageBytes = kPageTokens * sizeof(int32_t);
constexpr uint32_t kRounds = 12;

// The constants of RFC 7693, sections 2.6 and 2.7.
constexpr std::array<uint64_t, 8> kInitial = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr uint8_t kSigma[10][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
                                    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
                                    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
                                    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
                                    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

using State = std::array<uint64_t, 8>;

inline void mix(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d, uint64_t x, uint64_t y) {
  a += b + x;
  d = std::rotr(d ^ a, 32);
  c += d;
  b = std::rotr(b ^ c, 24);
  a += b + y;
  d = std::rotr(d ^ a, 16);
  c += d;
  b = std::rotr(b ^ c, 63);
}

template <size_t kRound>
inline void round_of(std::array<uint64_t, 16>& v, const std::array<uint64_t, 16>& m) {
  constexpr const uint8_t* s = kSigma[kRound % std::size(kSigma)];
  mix(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
  mix(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
  mix(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
  mix(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
  mix(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
  mix(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
  mix(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
  mix(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
}

/// One block of a message of which `num_bytes` have come by its end.
void compress(State& state, const uint8_t* block, uint64_t num_bytes, bool is_last) {
  std::array<uint64_t, 16> m;
  std::memcpy(m.data(), block, kBlockBytes);
  std::array<uint64_t, 16> v;
  std::copy(state.begin(), state.end(), v.begin());
  std::copy(kInitial.begin(), kInitial.end(), v.begin() + 8);
  v[12] ^= num_bytes;
  if (is_last) {
    v[14] = ~v[14];
  }
  // Unrolled, so that the order of the words is in the code and not looked up.
  [&]<size_t... kRound>(std::index_sequence<kRound...>) {
    (round_of<kRound>(v, m), ...);
  }(std::make_index_sequence<kRounds>{});
  for (size_t i = 0; i < state.size(); ++i) {
    state[i] ^= v[i] ^ v[i + 8];
  }
}

PageKey key_of(const uint8_t* page, const PageKey& parent) {
  State state = kInitial;
  state[0] ^= 0x01010000 ^ sizeof(PageKey);  // no key, sequential, so many bytes of digest
  std::array<uint64_t, 2> salt;
  static_assert(sizeof(salt) == sizeof(parent));
  std::memcpy(salt.data(), parent.data(), sizeof(salt));
  state[4] ^= salt[0];
  state[5] ^= salt[1];
  static_assert(kPageBytes == 2 * kBlockBytes);
  compress(state, page, kBlockBytes, false);
  compress(state, page + kBlockBytes, kPageBytes, true);
  PageKey key;
  std::memcpy(key.data(), state.data(), key.size());
  return key;
}

}  // namespace

std::vector<PageKey> page_keys(std::span<const int32_t> tokens, std::span<const uint8_t> parent) {
  check(parent.empty() || parent.size() == sizeof(PageKey), "page_keys",
        "parent: expected 0 or 16 bytes, got ", parent.size());
  PageKey before = {};
  std::copy(parent.begin(), parent.end(), before.begin());
  std::vector<PageKey> keys(tokens.size() / kPageTokens);
  for (size_t page = 0; page < keys.size(); ++page) {
    std::array<uint8_t, kPageBytes> bytes;
    std::memcpy(bytes.data(), tokens.data() + page * kPageTokens, kPageBytes);
    before = keys[page] = key_of(bytes.data(), before);
  }
  return keys;
}

}  // namespace terrazzo
