// fault_port.h: a port that loses, doubles, delays and damages what passes another port, by seed.
//
//   receive:  wrapped --> lose? damage? double? hold back? --> worker        each direction draws from a generator of
//   its send:     worker  --> lose? damage? double? hold back? --> wrapped       own, per packet: polling changes
//   nothing
//
// A held packet passes after up to kReorderDistance others have, or as many calls of receive(): nothing is held for
// ever. Counting (packet.h): lost on receive = refused, lost on send = dropped, both as fault_injected; doubled on send
// = made; doubled on receive = one more that came in. held() is this port's part of the law's `held`. Owner: the worker
// whose queue it wraps. Cost: some copies of each packet's view: for tests and drills.
#pragma once
#include <array>
#include <memory>
#include <vector>

#include "dataplane/port.h"
#include "drivers/wrapped_device.h"

namespace wireplane {

struct Faults {  // probabilities
  double loss = 0, duplicate = 0, reorder = 0, corrupt = 0;
};

class FaultPort final : public Port {
 public:
  static constexpr unsigned kReorderDistance = 4;
  static constexpr std::size_t kMaxHeld = 64;  // a direction; beyond, packets are not held back

  FaultPort(Port& wrapped, const Faults& receiving, const Faults& sending, std::uint64_t seed);
  ~FaultPort() override;  // the engine's pool must still be there: what is held goes back

  void receive(Burst& burst, WorkerContext& context) override;
  std::size_t send(Burst& burst, WorkerContext& context) override;
  void wake_fds(std::vector<int>& fds) const override { wrapped_.wake_fds(fds); }

  void set_faults(const Faults& receiving, const Faults& sending);  // by the worker's thread
  [[nodiscard]] std::size_t held() const;

 private:
  struct Held {
    Packet packet;
    Endpoint to;  // a copy: the peer's own lives only until the worker's next quiescent state
    unsigned others;
  };

  // One way through the port: its dice, and what it holds back.
  class Direction {
   public:
    Direction(const Faults& faults, std::uint64_t seed) : faults_{faults}, state_{seed} { held_.reserve(kMaxHeld); }
    // What becomes of one packet; `lose(packet)`, `twin(packet, copy)` -> made?, `pass(packet)`.
    template <class Lose, class Twin, class Pass>
    void carry(Packet& packet, Lose lose, Twin twin, Pass pass);
    template <class Pass>
    void overtake(Pass pass);  // one more has gone by: those held long enough follow
    void set(const Faults& faults) { faults_ = faults; }
    [[nodiscard]] std::vector<Held>& held() { return held_; }
    [[nodiscard]] const std::vector<Held>& held() const { return held_; }

   private:
    [[nodiscard]] std::uint64_t draw();
    [[nodiscard]] bool happens(double probability);
    void damage(Packet& packet);
    [[nodiscard]] bool hold(const Packet& packet);

    Faults faults_;
    std::uint64_t state_;
    std::vector<Held> held_;
  };

  void queue(const Packet& packet, WorkerContext& context);
  void flush(WorkerContext& context);

  Port& wrapped_;
  Direction receiving_, sending_;
  Burst incoming_, outgoing_;
  std::array<Endpoint, kBurst> destinations_{};  // of outgoing_
  std::vector<Packet> ready_;                    // received, and not yet handed over
  std::size_t handed_over_ = 0;                  // of ready_
  std::size_t sent_ = 0;                         // and not yet reported to the worker
};

[[nodiscard]] std::unique_ptr<OuterDevice> with_faults(std::unique_ptr<OuterDevice> device, const Faults& receiving,
                                                       const Faults& sending, std::uint64_t seed);
[[nodiscard]] std::unique_ptr<InnerDevice> with_inner_faults(std::unique_ptr<InnerDevice> device,
                                                             const Faults& receiving, const Faults& sending,
                                                             std::uint64_t seed);

}  // namespace wireplane
