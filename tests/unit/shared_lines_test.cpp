// Which lines two workers share, and who writes them: what makes two cores slower than twice one.
//
// valgrind's lackey tells every access of a program to memory. Two workers step in turn, a marker says which; a line is
// shared when both touched it, and what counts is each store to one. Silent stores count, too, as they do to a
// cache: two workers' buffers in one line of descriptors, each of which was set to the 1 that it already was, cost a
// tenth of their rate, which no comparison of memory before and after had shown.
#include <gtest/gtest.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "bench/engine_fixture.h"
#include "dataplane/worker.h"

namespace wireplane {
namespace {

using bench::EngineFixture;

constexpr std::uint32_t kPeers = 8, kLength = 64;
constexpr unsigned kWarmUp = 2, kSteps = 4;                // of each worker
constexpr unsigned kPackets = 2 * kSteps * kReceiveBurst;  // of both

alignas(4 * kCacheLine) volatile std::uint64_t marker = 0;  // stored before each step that counts, and after it

// What a worker is to receive, a burst a step; made before, so that nothing here belongs to both workers.
class alignas(2 * kCacheLine) ScriptedPort final : public Port {
 public:
  void receive(Burst& burst, WorkerContext& context) override {
    for (const auto& [octets, from] : bursts.at(next_)) {
      Packet& packet = burst.add();
      packet.buffer = context.buffers.take();
      packet.data = packet.buffer->memory + kHeadroom;
      packet.length = static_cast<std::uint32_t>(octets.size());
      packet.from = from;
      std::copy(octets.begin(), octets.end(), packet.data);
    }
    ++next_;
  }
  std::size_t send(Burst& burst, WorkerContext& context) override {
    const std::size_t count = burst.size();
    for (Packet& packet : burst) context.release(packet);
    burst.clear();
    sent += count;
    return count;
  }
  std::vector<std::vector<std::pair<std::vector<std::uint8_t>, Endpoint>>> bursts;
  std::size_t sent = 0;

 private:
  std::size_t next_ = 0;
};

std::vector<std::uint8_t> transport_message(EngineFixture& fixture, std::uint32_t from, std::uint32_t to,
                                            std::uint64_t counter) {
  std::vector<std::uint8_t> datagram(kLength + kDataOverhead);
  const Session& session = fixture.session(from);
  std::uint8_t* const ip = &datagram[kDataHeaderSize];
  bench::write_ip(ip, kLength, EngineFixture::address_of(from), EngineFixture::address_of(to));
  store_le(&datagram[0], std::uint32_t{4});
  store_le(&datagram[4], session.self.raw());
  store_le(&datagram[8], counter);
  SealJob job{session.receive_key, counter, nullptr, 0, kLength, ip, ip, 0};
  fixture.engine().aead().seal(&job, 1);
  return datagram;
}

// Caches take kReceiveBurst at a time: each gets every second one of the same lines of descriptors, as they lie when
// they have been on the way for a while.
void mix_buffers(BufferPool& pool) {
  std::vector<Buffer*> all(pool.capacity());
  ASSERT_EQ(pool.take(all.data(), all.size()), all.size());
  std::sort(all.begin(), all.end());
  for (std::size_t first = 0; first < all.size(); first += 2 * kReceiveBurst)
    for (const std::size_t parity : {0, 1})
      for (std::size_t i = 0; i < kReceiveBurst; ++i) pool.give(&all[first + 2 * i + parity], 1);
}

void print_lines(const char* what, const void* at, std::size_t octets) {
  std::printf("range %s %lx %lx\n", what, reinterpret_cast<std::uintptr_t>(at),
              reinterpret_cast<std::uintptr_t>(at) + octets);
}

// What each worker receives: of its own peers, for peers of its own (`apart`) or for all in turn.
void script(EngineFixture& fixture, bool apart, std::array<ScriptedPort, 2>& ports) {
  std::array<std::vector<std::uint32_t>, 2> own;
  for (std::uint32_t i = 0; i < kPeers; ++i) own[fixture.engine().owner(fixture.session(i).self)].push_back(i);
  std::uint64_t counter = 0;
  for (unsigned step = 0; step < kWarmUp + kSteps; ++step) {
    for (const unsigned w : {0u, 1u}) {
      auto& burst = ports[w].bursts.emplace_back();
      for (std::uint32_t i = 0; i < kReceiveBurst; ++i) {
        const std::uint32_t from = own[w][i % own[w].size()];
        const std::uint32_t to = apart ? own[w][(i + 1) % own[w].size()] : (from + 1 + i % (kPeers - 1)) % kPeers;
        burst.emplace_back(transport_message(fixture, from, to, counter++), EngineFixture::endpoint_of(from));
      }
    }
  }
}

// A worker on a stack of its own, as a thread has one; not a thread, so that only the one that steps makes accesses.
class Runner {
 public:
  Runner(Engine& engine, unsigned index, Port& port) : worker_{engine, index, port, nullptr} {
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_.get();
    own_.uc_stack.ss_size = kStack;
    own_.uc_link = nullptr;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&own_, reinterpret_cast<void (*)()>(loop), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
  }
  void step(Instant now, bool counts) {
    now_ = now;
    counts_ = counts;
    swapcontext(&caller_, &own_);
  }

 private:
  static constexpr std::size_t kStack = 1 << 20;
  static void loop(unsigned high, unsigned low) {
    auto& self = *reinterpret_cast<Runner*>(std::uintptr_t{high} << 32 | low);
    while (true) {
      if (self.counts_) marker = 1;
      self.worker_.step(self.now_);
      if (self.counts_) marker = 0;
      swapcontext(&self.own_, &self.caller_);
    }
  }
  alignas(2 * kCacheLine) Worker worker_;
  Instant now_;
  bool counts_ = false;
  ucontext_t own_{}, caller_{};
  std::unique_ptr<std::uint8_t[]> stack_{new std::uint8_t[kStack]};
};

// Two workers relay, in turn.
void scenario(bool apart) {
  std::printf("scenario\n");
  EngineFixture fixture{kPeers, 2, 8 * kReceiveBurst};
  Engine& engine = fixture.engine();
  mix_buffers(engine.pool());
  std::array<ScriptedPort, 2> ports;
  script(fixture, apart, ports);
  std::printf("marker %lx\n", reinterpret_cast<std::uintptr_t>(&marker));
  for (std::uint32_t i = 0; i < kPeers; ++i) {
    print_lines("sent", &fixture.session(i).sent, sizeof fixture.session(i).sent);
    print_lines("peer", &engine.peer(PeerSlot{i}), sizeof(PeerState));
  }
  std::fflush(stdout);
  const std::array<std::unique_ptr<Runner>, 2> runners{std::make_unique<Runner>(engine, 0, ports[0]),
                                                       std::make_unique<Runner>(engine, 1, ports[1])};
  for (unsigned step = 0; step < kWarmUp + kSteps; ++step)
    for (const auto& runner : runners)
      runner->step(EngineFixture::start() + std::chrono::seconds{1} + step * std::chrono::milliseconds{1},
                   step >= kWarmUp);
  std::printf("relayed %zu\n", ports[0].sent + ports[1].sent);
}

const int child_ran = [] {
  if (std::getenv("WG_SHARED_LINES_CHILD") == nullptr) return 0;
  scenario(true);
  scenario(false);
  std::fflush(stdout);
  std::_Exit(0);
}();

// What the two workers did with the lines of memory.
class Trace {
 public:
  // Of a line of lackey's or the child's.
  void read(const char* text) {
    std::uintptr_t at = 0, end = 0;
    std::size_t size = 0;
    char what[16];
    if (std::sscanf(text, "marker %lx", &marker_) == 1 || std::sscanf(text, "relayed %zu", &relayed) == 1) return;
    if (std::sscanf(text, "range %15s %lx %lx", what, &at, &end) == 3) {
      for (; at < end; at += kCacheLine) names_[at / kCacheLine] = what;
      return;
    }
    if (text[0] != ' ' || std::sscanf(text + 2, " %lx,%zu", &at, &size) != 2) return;
    if (at == marker_ && text[1] == 'S') {
      between_ = !between_;  // stored before each step and after it
      if (!between_) worker_ ^= 1;
      return;
    }
    if (!between_) return;
    for (std::uintptr_t line = at / kCacheLine; line <= (at + size - 1) / kCacheLine; ++line) {
      touched_[worker_].insert(line);
      if (text[1] != 'L') ++written_[worker_][line];
    }
  }
  // Stores to a line that the other worker touches, a packet; by what the line is.
  [[nodiscard]] std::map<std::string, double> shared_a_packet() const {
    std::map<std::string, double> writes;
    for (const int worker : {0, 1})
      for (const auto& [line, stores] : written_[worker])
        if (touched_[1 - worker].contains(line)) {
          const auto name = names_.find(line);
          writes[name == names_.end() ? "other" : name->second] += stores / double{kPackets};
        }
    return writes;
  }
  [[nodiscard]] std::size_t stores() const {
    std::size_t sum = 0;
    for (const auto& of_worker : written_)
      for (const auto& [line, stores] : of_worker) sum += stores;
    return sum;
  }
  std::size_t relayed = 0;

 private:
  std::uintptr_t marker_ = 0;
  bool between_ = false;
  int worker_ = 0;
  std::map<std::uintptr_t, std::string> names_;
  std::array<std::set<std::uintptr_t>, 2> touched_;
  std::array<std::map<std::uintptr_t, unsigned>, 2> written_;  // how often
};

// Of each scenario.
std::vector<Trace> run_under_lackey() {
  std::vector<Trace> traces;
  char self[4096] = {};
  EXPECT_GT(readlink("/proc/self/exe", self, sizeof self - 1), 0);
  const std::string command =
      std::string{"WG_AEAD=portable WG_SHARED_LINES_CHILD=1 valgrind --tool=lackey --trace-mem=yes '"} + self +
      "' 2>&1";
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return traces;
  char line[256];
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    if (std::string_view{line} == "scenario\n") traces.emplace_back();
    if (line[0] != 'I' && !traces.empty()) traces.back().read(line);
  }
  EXPECT_EQ(pclose(pipe), 0);
  return traces;
}

class SharedLines : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    traces_ = run_under_lackey();
  }  // a minute, mostly of the trace's way through the pipe
  void SetUp() override {
    ASSERT_EQ(traces_.size(), 2u) << "valgrind did not run";
    for (const Trace& trace : traces_) {
      ASSERT_EQ(trace.relayed, 2 * (kWarmUp + kSteps) * kReceiveBurst);
      ASSERT_GT(trace.stores(), 100 * kPackets);  // what was to be traced was
    }
  }
  static inline std::vector<Trace> traces_;  // own peers', all peers'
};

// Goal: a worker whose packets are its own peers' writes no line that another worker touches.
TEST_F(SharedLines, NoneIsWrittenForPacketsOfAWorkersOwnPeers) {
  for (const auto& [what, writes] : traces_[0].shared_a_packet())
    ADD_FAILURE() << what << ": " << writes << " a packet";
}

// Goal: who sends to another worker's peer writes two of that one's lines and nothing else, and neither for each
// packet: the session's, with the counter, once for many (`Reservations`); the peer's, with its times, while it is busy
// a few times in many milliseconds (`PeerState`), though each packet comes after one that went the other way.
TEST_F(SharedLines, OfAnotherWorkersPeerAreTheCounterAndTheTimes) {
  const auto stores = traces_[1].shared_a_packet();
  constexpr unsigned kStoresANote = 5;
  for (const auto& [what, a_packet] : stores) {
    std::printf("%s: %.3f stores a packet\n", what.c_str(), a_packet);
    const double most = what == "peer"   ? 1.0 * PeerState::kMostNotes * kStoresANote * kPeers / kPackets
                        : what == "sent" ? kPeers / (2.0 * kReceiveBurst)
                                         : 0;
    EXPECT_LE(a_packet, most) << what;
  }
  EXPECT_TRUE(stores.contains("sent"));
}

}  // namespace
}  // namespace wireplane
