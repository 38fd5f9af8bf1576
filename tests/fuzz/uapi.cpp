// Fuzz: any octets at all as UAPI requests.
// Claims: in pieces or whole the same is read; limits hold; what was accepted survives the way to text and back.
#include "control/uapi.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dataplane/base/check.h"

namespace wireplane {
namespace {

constexpr UapiLimits kLimits{
    .line_octets = 256, .peers = 64, .allowed_ips = 64, .peers_a_part = 3, .allowed_ips_a_part = 5};

std::uint32_t no_interfaces(std::string_view) { return 0; }

struct Request {
  UapiVerb verb;
  int error;
  SecretText text;
  bool operator==(const Request&) const = default;
};

Request taken(UapiParser& parser) {
  Request request{parser.verb(), parser.error(), {}};
  if (request.error == 0 && request.verb == UapiVerb::kSet) append_uapi(request.text, parser.take_change());
  parser.reset();
  return request;
}

std::vector<Request> read(std::string_view octets, std::size_t piece) {
  UapiParser parser{kLimits, no_interfaces};
  std::vector<Request> requests;
  while (!octets.empty()) {
    const std::size_t count = parser.feed(octets.substr(0, piece));
    WG_CHECK(count > 0);
    octets.remove_prefix(count);
    if (parser.complete()) requests.push_back(taken(parser));
  }
  return requests;
}

void check_round_trip(const SecretText& text) {
  SecretText again = "set=1\n" + text + '\n';
  UapiParser parser{{}, no_interfaces};
  WG_CHECK(parser.feed(again) == again.size() && parser.complete() && parser.error() == 0);
  WG_CHECK(taken(parser).text == text);
}

}  // namespace
}  // namespace wireplane

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* octets, std::size_t count) {
  using namespace wireplane;
  if (count == 0) return 0;
  const std::string_view text{reinterpret_cast<const char*>(octets + 1), count - 1};
  const auto whole = read(text, text.size() + 1);
  WG_CHECK(whole == read(text, 1 + octets[0]));
  for (const Request& request : whole)
    if (request.error == 0 && request.verb == UapiVerb::kSet) check_round_trip(request.text);
  return 0;
}
