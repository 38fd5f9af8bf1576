// transcript.h: what two sides of a handshake agree on so far: everything said (h) and every secret shared (ck).
// spec: wg §5.4.2, §5.4.3 (H, C, kappa); Noise §5.2 (SymmetricState)
//
//   mix_hash  h  = Hash(h | octets)                 both saw these octets
//   mix_key   ck, k = Kdf2(ck, secret)              both know this secret; k seals the next field
//   seal      field = Aead(k, 0, text, h), then mix_hash(field)
//
// A key seals one field in its life, which is why the counter is always 0; it is wiped by that use. Copyable, because
// whoever reads a message works on a copy; every copy is wiped when left (P30).
#pragma once
#include <cstdint>
#include <span>

#include "control/noise/blake2s.h"
#include "dataplane/base/secret.h"
#include "dataplane/base/types.h"

namespace wireplane {

class Transcript {
 public:
  Transcript(Octets prologue, const PublicKey& responder);  // the responder's key is known beforehand: <- s
  Transcript(const Transcript& from);
  Transcript& operator=(const Transcript& from);
  ~Transcript();

  void mix_hash(Octets octets);
  void mix_key(Octets secret);
  void mix_ephemeral(const PublicKey& ephemeral);                             // e, in a pattern with a psk
  [[nodiscard]] bool mix_dh(const SecretKey& ours, const PublicKey& theirs);  // ee, es, se, ss; false: low order
  void mix_psk(const SecretKey& psk);                                         // psk; all zero if there is none
  void seal(std::span<std::uint8_t> sealed, Octets text);
  [[nodiscard]] bool open(std::span<std::uint8_t> text, Octets sealed);  // false: leave this copy
  void split(SecretKey& to_responder, SecretKey& to_initiator) const;    // wg §5.4.5
  [[nodiscard]] SecretKey exporter()
      const;  // Kdf1(ck, "wireplane exporter" | h): binds what comes later to this session

  [[nodiscard]] const Digest& handshake_hash() const { return h_; }

 private:
  SecretKey ck_, k_;
  Digest h_;
  bool has_key_ = false;
};

}  // namespace wireplane
