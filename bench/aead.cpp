// aead.cpp: ChaCha20-Poly1305 over bursts: our kernels and their rivals in one run.
//
// <kernel>: all that can run here; by_shape is what Aead::chosen() takes.
//   aead/seal/<kernel>/<size>              batch 32, 32 distinct keys, in place, warm
//   aead/seal/<kernel>/<size>/batch<n>     n = 1 .. 64
//   aead/seal/<kernel>/<size>/cold         buffers from a pool larger than L2
//   aead/seal/<kernel>/<size>/paused       a burst of 32 after 1 ms of scalar work: what a lightly loaded worker sees
//   aead/port_limit/<size>                 what the vector pipes alone would need (aead_port_limit.cpp), and
//   aead/register_limit/<size>             what they need with no more than 32 registers
// <size>: octets, or imix (7:4:1 of 64, 576, 1420), or uniform (64..1420). Rivals: ipsec_mb (burst interface),
// ipsec_mb_job (job interface), ipsec_mb_avx2 (the same without
// AVX-512), openssl, portable (libsodium).
#include <intel-ipsec-mb.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "dataplane/aead/aead.h"

namespace wireplane::bench {
namespace {

constexpr std::uint32_t kTag = 16;

// --- rivals that are no kernel of ours ---

IMB_MGR* manager_of(void (*init)(IMB_MGR*)) {
  IMB_MGR* const made = alloc_mb_mgr(0);
  init(made);
  return made;
}
IMB_MGR* best_manager() {
  static IMB_MGR* const manager = manager_of([](IMB_MGR* made) { init_mb_mgr_auto(made, nullptr); });
  return manager;
}
IMB_MGR* avx2_manager() {  // what ipsec-mb would be on a processor without AVX-512
  static IMB_MGR* const manager = manager_of([](IMB_MGR* made) { init_mb_mgr_avx2(made); });
  return manager;
}

// ipsec-mb's job interface, used as its documentation shows: fill, submit without checks, take back.
void ipsec_mb_job(IMB_MGR* manager, const std::uint8_t* key, std::uint64_t counter, const std::uint8_t* from,
                  std::uint8_t* to, std::uint32_t length, std::uint8_t* tag, IMB_CIPHER_DIRECTION direction) {
  std::uint8_t nonce[12] = {};
  std::memcpy(nonce + 4, &counter, 8);
  IMB_JOB* const job = IMB_GET_NEXT_JOB(manager);
  job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
  job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
  job->cipher_direction = direction;
  job->chain_order = direction == IMB_DIR_ENCRYPT ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
  job->enc_keys = job->dec_keys = key;
  job->key_len_in_bytes = 32;
  job->iv = nonce;
  job->iv_len_in_bytes = 12;
  job->u.CHACHA20_POLY1305.aad = nonce;
  job->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
  job->src = from;
  job->dst = to;
  job->cipher_start_src_offset_in_bytes = job->hash_start_src_offset_in_bytes = 0;
  job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = length;
  job->auth_tag_output = tag;
  job->auth_tag_output_len_in_bytes = kTag;
  if (IMB_SUBMIT_JOB_NOCHECK(manager) == nullptr) IMB_FLUSH_JOB(manager);
}

template <IMB_MGR* (*manager)()>
void job_seal(SealJob* jobs, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    const SealJob& job = jobs[i];
    ipsec_mb_job(manager(), job.key, job.counter, job.body, job.destination, job.body_length,
                 job.destination + job.body_length, IMB_DIR_ENCRYPT);
  }
}
template <IMB_MGR* (*manager)()>
void job_open(OpenJob* jobs, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    OpenJob& job = jobs[i];
    std::uint8_t tag[kTag];
    const std::uint32_t length = job.length - kTag;
    ipsec_mb_job(manager(), job.key, job.counter, job.source, job.destination, length, tag, IMB_DIR_DECRYPT);
    job.authentic = std::memcmp(tag, job.source + length, kTag) == 0;
  }
}

EVP_CIPHER_CTX* openssl_context() {
  static EVP_CIPHER_CTX* const context = EVP_CIPHER_CTX_new();
  static const EVP_CIPHER* const cipher = EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);
  static const int once = EVP_CipherInit_ex(context, cipher, nullptr, nullptr, nullptr, 1);
  (void)once;
  return context;
}
void openssl_seal(SealJob* jobs, std::size_t count) noexcept {
  EVP_CIPHER_CTX* const context = openssl_context();
  for (std::size_t i = 0; i < count; ++i) {
    const SealJob& job = jobs[i];
    std::uint8_t nonce[12] = {};
    std::memcpy(nonce + 4, &job.counter, 8);
    int n = 0;
    EVP_EncryptInit_ex(context, nullptr, nullptr, job.key, nonce);
    EVP_EncryptUpdate(context, job.destination, &n, job.body, static_cast<int>(job.body_length));
    EVP_EncryptFinal_ex(context, job.destination + n, &n);
    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTag, job.destination + job.body_length);
  }
}
void openssl_open(OpenJob* jobs, std::size_t count) noexcept {
  EVP_CIPHER_CTX* const context = openssl_context();
  for (std::size_t i = 0; i < count; ++i) {
    OpenJob& job = jobs[i];
    std::uint8_t nonce[12] = {}, tag[kTag];
    std::memcpy(nonce + 4, &job.counter, 8);
    std::memcpy(tag, job.source + job.length - kTag, kTag);
    int n = 0;
    EVP_DecryptInit_ex(context, nullptr, nullptr, job.key, nonce);
    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTag, tag);
    EVP_DecryptUpdate(context, job.destination, &n, job.source, static_cast<int>(job.length - kTag));
    job.authentic = EVP_DecryptFinal_ex(context, job.destination + n, &n) == 1;
  }
}

const AeadKernels kIpsecMbJob = {"ipsec_mb_job", nullptr, job_seal<best_manager>, job_open<best_manager>};
const AeadKernels kIpsecMbAvx2 = {"ipsec_mb_avx2", nullptr, job_seal<avx2_manager>, job_open<avx2_manager>};
const AeadKernels kOpenssl = {"openssl", nullptr, openssl_seal, openssl_open};

// --- a burst to work on ---

struct Load {
  std::string name;
  std::vector<std::uint32_t> sizes;  // the packets' plaintext lengths, repeated as needed
};

Load fixed(std::uint32_t size) { return {std::to_string(size), {size}}; }

Load imix() {  // 7:4:1, shuffled once: neighbours differ, as they do on a wire
  Load load{"imix", {}};
  for (int i = 0; i < 16; ++i) {
    load.sizes.insert(load.sizes.end(), {64, 64, 64, 64, 64, 64, 64, 576, 576, 576, 576, 1420});
  }
  std::shuffle(load.sizes.begin(), load.sizes.end(), std::mt19937{1});
  return load;
}

Load uniform() {
  Load load{"uniform", {}};
  std::mt19937 random{2};
  for (int i = 0; i < 512; ++i) load.sizes.push_back(64 + static_cast<std::uint32_t>(random() % 1357));
  return load;
}

// A pool of packets in place, each with its own key, and the burst that walks through it. Opening in place destroys the
// ciphertext, so open goes from the sealed pool to a second one that seal's benches also use as their place.
class Pool {
 public:
  Pool(const Load& load, std::size_t packets, const AeadKernels& kernels, bool in_place)
      : stride_{(*std::max_element(load.sizes.begin(), load.sizes.end()) + kTag + 127) / 64 * 64},
        sealed_(packets * stride_ + 64),
        other_(packets * stride_ + 64),
        keys_(packets * 32) {
    std::uint64_t random = 3;  // quick: cold pools are large
    for (auto* octets : {&sealed_, &keys_}) {
      for (std::size_t at = 0; at + 8 <= octets->size(); at += 8) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        std::memcpy(octets->data() + at, &random, 8);
      }
    }
    for (std::size_t i = 0; i < packets; ++i) {
      const std::uint32_t size = load.sizes[i % load.sizes.size()];
      std::uint8_t* const place = at(sealed_, i);
      seals_.push_back({&keys_[i * 32], i, nullptr, 0, size, place, place, 0});
      opens_.push_back({&keys_[i * 32], i, place, size + kTag, in_place ? place : at(other_, i), false});
      octets_ += size;
    }
    kernels.seal(seals_.data(), packets);
  }
  std::vector<SealJob>& seals() { return seals_; }
  std::vector<OpenJob>& opens() { return opens_; }
  [[nodiscard]] double mean_octets() const { return static_cast<double>(octets_) / static_cast<double>(seals_.size()); }

 private:
  std::uint8_t* at(std::vector<std::uint8_t>& pool, std::size_t i) const {
    std::uint8_t* const aligned = pool.data() + (64 - reinterpret_cast<std::uintptr_t>(pool.data()) % 64) % 64;
    return aligned + i * stride_ + 16;  // behind a 16-octet data header, as on a worker
  }
  std::size_t stride_;
  std::vector<std::uint8_t> sealed_, other_, keys_;
  std::vector<SealJob> seals_;
  std::vector<OpenJob> opens_;
  std::uint64_t octets_ = 0;
};

void seal_bench(benchmark::State& state, const AeadKernels& kernels, const Load& load, std::size_t batch,
                std::size_t packets) {
  Pool pool{load, packets, kernels, true};
  std::size_t next = 0;
  const Meter meter;
  for (auto _ : state) {
    kernels.seal(pool.seals().data() + next, batch);
    benchmark::ClobberMemory();
    next = next + 2 * batch <= packets ? next + batch : 0;
  }
  meter.report(state, static_cast<double>(batch), pool.mean_octets() * static_cast<double>(batch));
}

void open_bench(benchmark::State& state, const AeadKernels& kernels, const Load& load, std::size_t batch,
                std::size_t packets) {
  Pool pool{load, packets, kernels, false};
  std::size_t next = 0, good = 0;
  const Meter meter;
  for (auto _ : state) {
    OpenJob* const jobs = pool.opens().data() + next;
    kernels.open(jobs, batch);
    benchmark::ClobberMemory();
    good += jobs[0].authentic;
    next = next + 2 * batch <= packets ? next + batch : 0;
  }
  meter.report(state, static_cast<double>(batch), pool.mean_octets() * static_cast<double>(batch));
  if (good != static_cast<std::size_t>(state.iterations())) state.SkipWithError("a packet was refused");
}

// Burst, then scalar work for a while, and so on; only the bursts are timed, and their median counts. Wide registers
// may be powered down or run at half rate after a pause.
void paused_bench(benchmark::State& state, const AeadKernels& kernels, const Load& load, std::size_t batch) {
  constexpr std::uint64_t kPauseCycles = 2'000'000;  // TSC
  Pool pool{load, batch, kernels, true};
  std::vector<double> took_ns;
  for (auto _ : state) {
    const std::uint64_t pause = __rdtsc();
    std::uint64_t scalar = pause;
    while (__rdtsc() - pause < kPauseCycles) benchmark::DoNotOptimize(scalar = scalar * 3 + 1);
    const std::uint64_t begin = __rdtsc();
    kernels.seal(pool.seals().data(), batch);
    took_ns.push_back(static_cast<double>(__rdtsc() - begin) / Meter::tsc_per_ns());
    state.SetIterationTime(1e-9 * took_ns.back());
  }
  std::nth_element(took_ns.begin(), took_ns.begin() + static_cast<std::ptrdiff_t>(took_ns.size() / 2), took_ns.end());
  const auto packets = static_cast<double>(batch);
  Meter::set(state, took_ns[took_ns.size() / 2], packets, pool.mean_octets() * packets);
}

// How many packets lie ready. Warm: as many as make the load's mean right, but within L2 by far. Cold: 16 MiB.
std::size_t warm_packets(const Load& load, std::size_t batch) {
  return load.sizes.size() == 1 ? batch : std::max<std::size_t>(batch, load.sizes.size() / batch * batch);
}
std::size_t cold_packets(const Load& load, std::size_t batch) {
  std::uint64_t sum = 0;
  for (const std::uint32_t size : load.sizes) sum += size + 128;
  const std::uint64_t mean = sum / load.sizes.size();
  return std::max<std::size_t>(batch, (16u << 20) / mean / batch * batch);
}

void add(const AeadKernels& kernels, const Load& load, std::size_t batch, bool cold, const std::string& suffix) {
  const std::size_t packets = cold ? cold_packets(load, batch) : warm_packets(load, batch);
  const std::string tail = std::string{kernels.name} + "/" + load.name + suffix;
  benchmark::RegisterBenchmark(
      ("aead/seal/" + tail).c_str(),
      [&kernels, load, batch, packets](benchmark::State& state) { seal_bench(state, kernels, load, batch, packets); });
  benchmark::RegisterBenchmark(
      ("aead/open/" + tail).c_str(),
      [&kernels, load, batch, packets](benchmark::State& state) { open_bench(state, kernels, load, batch, packets); });
}

void add_all(const AeadKernels& kernels) {
  std::vector<Load> loads;
  for (const std::uint32_t size : {0, 16, 64, 128, 256, 512, 1024, 1280, 1420, 8192}) loads.push_back(fixed(size));
  loads.push_back(imix());
  loads.push_back(uniform());
  for (const Load& load : loads) {
    add(kernels, load, 32, false, "");
    for (const std::size_t batch : {1, 2, 4, 8, 16, 64})
      add(kernels, load, batch, false, "/batch" + std::to_string(batch));
    add(kernels, load, 32, true, "/cold");
    const std::string paused = std::string{"aead/seal/"} + kernels.name + "/" + load.name + "/paused";
    benchmark::RegisterBenchmark(paused.c_str(),
                                 [&kernels, load](benchmark::State& state) { paused_bench(state, kernels, load, 32); })
        ->UseManualTime()
        ->Iterations(100);
  }
}

const int registered = [] {
  static const AeadKernels* const rivals[] = {&kIpsecMbJob, &kIpsecMbAvx2, &kOpenssl};
  for (const Aead* aead : Aead::usable()) add_all(aead->kernels());  // ours, ipsec_mb (burst), portable (libsodium)
  for (const AeadKernels* kernels : rivals) add_all(*kernels);
  return 0;
}();

}  // namespace
}  // namespace wireplane::bench
