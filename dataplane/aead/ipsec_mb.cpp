// ipsec_mb.cpp: Intel's ipsec-mb behind the AEAD contract. It computes one packet at a time, on any x86 from SSE up.
//
// The burst interface: fill up to kBurst of the manager's own job slots, submit, and all come back completed, because
// this library's ChaCha20-Poly1305 never holds a job back. The manager is not thread-safe: every thread has its own,
// made when the thread first comes here (a worker's self-test burst, not its first packet, if Aead::chosen() ran on
// that thread).
#include <intel-ipsec-mb.h>

#include <algorithm>
#include <cstring>

#include "dataplane/aead/aead_kernels.h"
#include "dataplane/aead/gather.h"
#include "dataplane/base/secret.h"

namespace wireplane {
namespace {

constexpr std::uint32_t kTag = 16;
constexpr std::uint32_t kBurst = 32;  // jobs submitted at once

class Manager {
 public:
  Manager() : manager_{alloc_mb_mgr(0)} {
    if (manager_ == nullptr) return;
    init_mb_mgr_auto(manager_, nullptr);
    if (imb_get_errno(manager_) != 0) {
      free_mb_mgr(manager_);
      manager_ = nullptr;
    }
  }
  // The library's AVX2 code reads 16 octets beyond a key (seen with valgrind on 1.3), its AVX-512 code does not (seen
  // with a key at the end of its page, aead_contract_test).
  [[nodiscard]] bool reads_beyond_keys() const { return manager_ == nullptr || manager_->used_arch != IMB_ARCH_AVX512; }
  ~Manager() {
    if (manager_ != nullptr) free_mb_mgr(manager_);
  }
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;
  IMB_MGR* get() { return manager_; }

 private:
  IMB_MGR* manager_;
};

struct Quick {
  IMB_MGR* manager = nullptr;
  bool reads_beyond_keys = true;
};
const Quick& quick_manager() {
  // What is beside the object spares a single packet the guard of one with a destructor.
  static constinit thread_local Quick quick;
  if (quick.manager != nullptr) [[likely]]
    return quick;
  thread_local Manager per_thread;
  quick = {per_thread.get(), per_thread.reads_beyond_keys()};
  return quick;
}
IMB_MGR* manager() { return quick_manager().manager; }

bool available() { return manager() != nullptr; }

// A key with room behind it, where the library reads beyond.
struct Key {
  std::uint8_t octets[32];
  std::uint8_t beyond[16];
};
void copy_key(Key& to, const std::uint8_t* from) {
  std::memcpy(to.octets, from, sizeof to.octets);
  std::memset(to.beyond, 0, sizeof to.beyond);
}

struct Piece {  // one packet, as the library sees it: whole, in or out of place
  const std::uint8_t* key;
  const std::uint8_t* source;
  std::uint8_t* destination;
  std::uint32_t length;
  std::uint8_t* tag;
};

void describe(IMB_JOB& job, const Piece& piece, const Nonce& nonce, IMB_CIPHER_DIRECTION direction) {
  static const std::uint8_t kNothing[1] = {};
  job.cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
  job.hash_alg = IMB_AUTH_CHACHA20_POLY1305;
  job.cipher_direction = direction;
  job.chain_order = direction == IMB_DIR_ENCRYPT ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
  job.enc_keys = job.dec_keys = piece.key;
  job.key_len_in_bytes = 32;
  job.iv = nonce.octets;
  job.iv_len_in_bytes = sizeof nonce.octets;
  job.u.CHACHA20_POLY1305.aad = kNothing;
  job.u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
  job.src = piece.source;
  job.dst = piece.destination;
  job.cipher_start_src_offset_in_bytes = job.hash_start_src_offset_in_bytes = 0;
  job.msg_len_to_cipher_in_bytes = job.msg_len_to_hash_in_bytes = piece.length;
  job.auth_tag_output = piece.tag;
  job.auth_tag_output_len_in_bytes = kTag;
}

// True if the piece was computed.
__attribute__((always_inline)) inline bool submit_one(IMB_MGR* mgr, const Piece& piece, const Nonce& nonce,
                                                      IMB_CIPHER_DIRECTION direction) {
  IMB_JOB* const job = IMB_GET_NEXT_JOB(mgr);
  describe(*job, piece, nonce, direction);
  const IMB_JOB* const done = IMB_SUBMIT_JOB_NOCHECK(mgr);
  return done == job && done->status == IMB_STATUS_COMPLETED;
}

// True if all `count` pieces were computed. The library refuses a burst whole; then nothing of it counts.
bool submit(const Piece* pieces, const Nonce* nonces, std::uint32_t count, IMB_CIPHER_DIRECTION direction) {
  IMB_MGR* const mgr = manager();
  if (mgr == nullptr) return false;
  IMB_JOB* jobs[kBurst];
  if (IMB_GET_NEXT_BURST(mgr, count, jobs) < count) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    describe(*jobs[i], pieces[i], nonces[i], direction);
  }
  return IMB_SUBMIT_BURST_NOCHECK(mgr, count, jobs) == count;
}

bool equal_tags(const std::uint8_t* a, const std::uint8_t* b) {  // constant time: no early exit
  std::uint64_t x[2], y[2];
  std::memcpy(x, a, kTag);
  std::memcpy(y, b, kTag);
  return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

// One packet alone, what by_shape leaves to the library: without a burst's arrays, and cheaper than a burst of one.
__attribute__((always_inline)) inline bool compute_one(Piece piece, std::uint64_t counter,
                                                       IMB_CIPHER_DIRECTION direction) {
  const Quick& quick = quick_manager();
  if (quick.manager == nullptr) return false;
  const Nonce nonce = nonce_of(counter);
  if (!quick.reads_beyond_keys) [[likely]]
    return submit_one(quick.manager, piece, nonce, direction);
  Key key;
  copy_key(key, piece.key);
  piece.key = key.octets;
  const bool computed = submit_one(quick.manager, piece, nonce, direction);
  wipe(&key, sizeof key);
  return computed;
}

void seal_one(const SealJob& job) {
  const std::uint32_t length = gather_plaintext(job);
  const Piece piece{job.key, job.destination, job.destination, length, job.destination + length};
  if (!compute_one(piece, job.counter, IMB_DIR_ENCRYPT)) wipe(job.destination, length + kTag);  // never plaintext
}

void open_one(OpenJob& job) {
  job.authentic = false;
  if (job.length < kTag) return;
  std::uint8_t tag[kTag];
  const Piece piece{job.key, job.source, job.destination, job.length - kTag, tag};
  const bool computed = compute_one(piece, job.counter, IMB_DIR_DECRYPT);
  job.authentic = computed && equal_tags(tag, job.source + job.length - kTag);
  if (!job.authentic) wipe(job.destination, job.length - kTag);
  wipe(tag, kTag);  // of a forgery, the right tag is a secret
}

__attribute__((noinline)) void seal_many(SealJob* jobs, std::size_t count) {
  for (std::size_t done = 0; done < count; done += kBurst) {
    const auto n = static_cast<std::uint32_t>(std::min<std::size_t>(kBurst, count - done));
    Piece pieces[kBurst];
    Nonce nonces[kBurst];
    Key keys[kBurst];
    for (std::uint32_t i = 0; i < n; ++i) {
      const SealJob& job = jobs[done + i];
      const std::uint32_t length = gather_plaintext(job);
      copy_key(keys[i], job.key);
      pieces[i] = {keys[i].octets, job.destination, job.destination, length, job.destination + length};
      nonces[i] = nonce_of(job.counter);
    }
    const bool computed = submit(pieces, nonces, n, IMB_DIR_ENCRYPT);
    wipe(keys, n * sizeof keys[0]);
    if (computed) continue;
    for (std::uint32_t i = 0; i < n; ++i) wipe(pieces[i].destination, pieces[i].length + kTag);  // never send plaintext
  }
}

__attribute__((noinline)) void open_many(OpenJob* jobs, std::size_t count) {
  for (std::size_t done = 0; done < count; done += kBurst) {
    Piece pieces[kBurst];
    Nonce nonces[kBurst];
    Key keys[kBurst];
    std::uint8_t tags[kBurst][kTag];
    OpenJob* whose[kBurst];
    std::uint32_t n = 0;
    for (std::size_t i = done; i < std::min(count, done + kBurst); ++i) {
      OpenJob& job = jobs[i];
      job.authentic = false;
      if (job.length < kTag) continue;
      copy_key(keys[n], job.key);
      pieces[n] = {keys[n].octets, job.source, job.destination, job.length - kTag, tags[n]};
      nonces[n] = nonce_of(job.counter);
      whose[n++] = &job;
    }
    if (n == 0) continue;
    const bool computed = submit(pieces, nonces, n, IMB_DIR_DECRYPT);
    wipe(keys, n * sizeof keys[0]);
    for (std::uint32_t i = 0; i < n; ++i) {  // the library deciphers before anyone compares: take it back if forged
      OpenJob& job = *whose[i];
      job.authentic = computed && equal_tags(tags[i], job.source + job.length - kTag);
      if (!job.authentic) wipe(job.destination, job.length - kTag);
    }
    wipe(tags, n * kTag);  // of a forgery, the right tag is a secret
  }
}

// Apart, so that a single packet does not pay for a burst's frame.
void seal(SealJob* jobs, std::size_t count) noexcept { return count == 1 ? seal_one(*jobs) : seal_many(jobs, count); }
void open(OpenJob* jobs, std::size_t count) noexcept { return count == 1 ? open_one(*jobs) : open_many(jobs, count); }

}  // namespace

const AeadKernels kAeadIpsecMb = {"ipsec_mb", available, seal, open};

}  // namespace wireplane
