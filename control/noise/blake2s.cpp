#include "control/noise/blake2s.h"

#include <blake2.h>
#include <sodium.h>

#include "dataplane/base/check.h"

namespace wireplane {
namespace {

constexpr std::size_t kBlockSize = 64;

// libb2's state behind a destructor. Copying one is how HMAC reuses the block that its key fills.
class Hasher {
 public:
  explicit Hasher(std::size_t digest_size, Octets key = {}) {
    WG_CHECK(digest_size >= 1 && digest_size <= BLAKE2S_OUTBYTES && key.size() <= BLAKE2S_KEYBYTES);
    const int failed = key.empty() ? blake2s_init(&state_, digest_size)
                                   : blake2s_init_key(&state_, digest_size, key.data(), key.size());
    WG_CHECK(failed == 0);
  }
  Hasher(const Hasher&) = default;
  Hasher& operator=(const Hasher&) = delete;
  ~Hasher() { wipe(&state_, sizeof state_); }

  void add(Octets octets) {
    if (!octets.empty()) blake2s_update(&state_, octets.data(), octets.size());
  }
  void add(Parts parts) {
    for (const Octets part : parts) add(part);
  }
  void finish(std::span<std::uint8_t> digest) { WG_CHECK(blake2s_final(&state_, digest.data(), digest.size()) == 0); }

 private:
  blake2s_state state_;
};

// RFC 2104 with both key blocks already hashed, so that a Kdf pays for them once.
class Hmac {
 public:
  explicit Hmac(Octets key) : inner_{sizeof(Digest)}, outer_{sizeof(Digest)} {
    std::array<std::uint8_t, kBlockSize> block{};
    if (key.size() > kBlockSize) {
      blake2s(std::span{block}.first(sizeof(Digest)), {key});
    } else {
      std::copy(key.begin(), key.end(), block.begin());
    }
    for (std::uint8_t& octet : block) octet ^= 0x36;
    inner_.add(Octets{block});
    for (std::uint8_t& octet : block) octet ^= 0x36 ^ 0x5c;
    outer_.add(Octets{block});
    wipe(block.data(), block.size());
  }
  void operator()(std::span<std::uint8_t, 32> digest, Parts parts) const {
    Hasher inner = inner_, outer = outer_;
    inner.add(parts);
    inner.finish(digest);
    outer.add(Octets{digest});
    outer.finish(digest);
  }

 private:
  Hasher inner_, outer_;
};

SecretKey extract(Octets key, Octets input) {
  SecretKey t0;
  Hmac{key}(t0.fill(), {input});
  return t0;
}

}  // namespace

void blake2s(std::span<std::uint8_t> digest, Parts parts) { keyed_blake2s(digest, {}, parts); }

void keyed_blake2s(std::span<std::uint8_t> digest, Octets key, Parts parts) {
  Hasher hasher{digest.size(), key};
  hasher.add(parts);
  hasher.finish(digest);
}

void hmac_blake2s(std::span<std::uint8_t, 32> digest, Octets key, Parts parts) { Hmac{key}(digest, parts); }

Digest hash(Parts parts) {
  Digest digest;
  blake2s(digest, parts);
  return digest;
}

Mac mac(Octets key, Parts parts) {
  Mac result;
  keyed_blake2s(result, key, parts);
  return result;
}

void kdf1(SecretKey& t1, Octets key, Octets input) {
  const SecretKey t0 = extract(key, input);
  hmac_blake2s(t1.fill(), t0.expose(), {std::array<std::uint8_t, 1>{1}});
}

void kdf2(SecretKey& t1, SecretKey& t2, Octets key, Octets input) {
  const SecretKey t0 = extract(key, input);
  const Hmac expand{t0.expose()};
  expand(t1.fill(), {std::array<std::uint8_t, 1>{1}});
  expand(t2.fill(), {t1.expose(), std::array<std::uint8_t, 1>{2}});
}

void kdf3(SecretKey& t1, SecretKey& t2, SecretKey& t3, Octets key, Octets input) {
  const SecretKey t0 = extract(key, input);
  const Hmac expand{t0.expose()};
  expand(t1.fill(), {std::array<std::uint8_t, 1>{1}});
  expand(t2.fill(), {t1.expose(), std::array<std::uint8_t, 1>{2}});
  expand(t3.fill(), {t2.expose(), std::array<std::uint8_t, 1>{3}});
}

bool equal_in_constant_time(Octets one, Octets other) {
  return one.size() == other.size() && sodium_memcmp(one.data(), other.data(), one.size()) == 0;
}

}  // namespace wireplane
