// configurable.h: the one door between whoever reads a configuration (file, UAPI, library) and whoever keeps it
// (Device). One thread: control's. Nothing here may take longer than a step is allowed to (1 ms), except where a change
// is large.
#pragma once
#include <cstddef>
#include <functional>

#include "control/configuration.h"

namespace wireplane {

class Configurable {
 public:
  using Visit = std::function<void(const PeerView&)>;
  static constexpr std::size_t kEnd = static_cast<std::size_t>(-1);  // the cursor behind the last peer

  virtual ~Configurable() = default;

  // Could this change be applied, as far as limits and the host's resources go? For a reload, which is not to begin
  // what cannot succeed as a whole. (A set request of UAPI comes in parts that are applied as they are, as in the
  // kernel.)
  [[nodiscard]] virtual Status check(const DeviceChange& change) const = 0;
  // Applies in the order of wg(8): the device's fields, replace_peers, then peer by peer. What is equal already is left
  // alone: no session is lost by saying again what is so. An error says what failed; what stood before it is applied.
  virtual Status apply(DeviceChange change) = 0;

  [[nodiscard]] virtual DeviceView view() const = 0;
  virtual void for_each_peer(const Visit& visit) const = 0;
  // A dump in pieces: visits up to `at_most` peers from `cursor` (0: the first) and returns where to go on, or kEnd. A
  // peer that exists all the while is visited exactly once; one that comes or goes meanwhile may be seen or not.
  [[nodiscard]] virtual std::size_t dump_some(std::size_t cursor, std::size_t at_most, const Visit& visit) const = 0;
};

}  // namespace wireplane
