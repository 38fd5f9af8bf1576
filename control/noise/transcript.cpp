#include "control/noise/transcript.h"

#include <string_view>

#include "control/noise/sealing.h"
#include "control/noise/x25519.h"
#include "dataplane/base/check.h"
#include "dataplane/base/fault.h"

namespace wireplane {
namespace {

Octets octets_of(std::string_view text) { return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}; }

constexpr std::string_view kConstruction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
constexpr std::string_view kExporterLabel = "wireplane exporter";

}  // namespace

Transcript::Transcript(Octets prologue, const PublicKey& responder) : h_{hash({octets_of(kConstruction)})} {
  ck_ = SecretKey{h_};
  mix_hash(prologue);
  mix_hash(responder.octets);
}

Transcript::Transcript(const Transcript& from)
    : ck_{from.ck_.duplicate()}, k_{from.k_.duplicate()}, h_{from.h_}, has_key_{from.has_key_} {}

Transcript& Transcript::operator=(const Transcript& from) {
  if (this != &from) {
    ck_ = from.ck_.duplicate();
    k_ = from.k_.duplicate();
    h_ = from.h_;
    has_key_ = from.has_key_;
  }
  return *this;
}

Transcript::~Transcript() {
  if (!seeded_fault(30)) wipe(h_.data(), h_.size());  // ck and k wipe themselves
}

void Transcript::mix_hash(Octets octets) { h_ = hash({h_, octets}); }

void Transcript::mix_key(Octets secret) {
  kdf2(ck_, k_, ck_.expose(), secret);
  has_key_ = true;
}

void Transcript::mix_ephemeral(const PublicKey& ephemeral) {
  mix_hash(ephemeral.octets);
  mix_key(ephemeral.octets);
}

bool Transcript::mix_dh(const SecretKey& ours, const PublicKey& theirs) {
  SecretKey shared;
  if (!dh(shared, ours, theirs)) return false;
  mix_key(shared.expose());
  return true;
}

void Transcript::mix_psk(const SecretKey& psk) {
  SecretKey tau;
  kdf3(ck_, tau, k_, ck_.expose(), psk.expose());
  mix_hash(tau.expose());
  has_key_ = true;
}

void Transcript::seal(std::span<std::uint8_t> sealed, Octets text) {
  WG_CHECK(has_key_);
  seal_once(sealed, k_, text, h_);
  k_.clear();
  has_key_ = false;
  mix_hash(sealed);
}

bool Transcript::open(std::span<std::uint8_t> text, Octets sealed) {
  WG_CHECK(has_key_);
  if (!open_once(text, k_, sealed, h_)) return false;
  k_.clear();
  has_key_ = false;
  mix_hash(sealed);
  return true;
}

void Transcript::split(SecretKey& to_responder, SecretKey& to_initiator) const {
  kdf2(to_responder, to_initiator, ck_.expose(), {});
}

SecretKey Transcript::exporter() const {
  std::array<std::uint8_t, kExporterLabel.size() + sizeof(Digest)> input;
  const auto behind_label = std::copy(kExporterLabel.begin(), kExporterLabel.end(), input.begin());
  std::copy(h_.begin(), h_.end(), behind_label);
  SecretKey key;
  kdf1(key, ck_.expose(), input);
  wipe(input.data(), input.size());
  return key;
}

}  // namespace wireplane
