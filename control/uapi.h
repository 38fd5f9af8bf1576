// uapi.h: the text protocol of wg(8) with userspace devices.
// spec: wireguard.com/xplatform, "Configuration Protocol"; where it is silent, wireguard-go's device/uapi.go
//
//   get=1\n\n          -->  listen_port=51820\n public_key=<64 hex>\n allowed_ip=10.0.0.0/8\n ... errno=0\n\n
//   set=1\n ... \n\n   -->  errno=0\n\n, or errno=-22\n\n (negative, as wg(8) and wireguard-go have it)
//   wireplane=1\n\n    -->  one line of JSON, errno=0\n\n: ours, for `wireplane show`
//
// The parser takes octets as they come, in any pieces, and keeps only what they mean, in parts that are small enough to
// be applied one a step: a request of a million peers makes nobody wait, and no block of memory is copied to grow. A
// peer's remove, update_only and replace_allowed_ips speak of all its lines since public_key, wherever they stand, as
// the flags of the kernel's messages do (wireguard-go goes line by line; wg(8) says them first, so both agree). A
// request that is wrong anywhere changes nothing: it is read to its end, and answered with its first fault. Texts hold
// keys: see secret_text.h.
#pragma once
#include <cstddef>
#include <deque>
#include <string>
#include <string_view>

#include "control/address_text.h"
#include "control/configuration.h"
#include "control/secret_text.h"

namespace wireplane {

enum class UapiVerb { kNone, kGet, kSet, kWireplane };

// What one request may hold, so that a client's memory is bounded: by default what a full device needs.
struct UapiLimits {
  std::size_t line_octets = 1024;  // the longest line that means something has about 110
  std::size_t peers = 2'000'000;
  std::size_t allowed_ips = 8'000'000;
  std::size_t peers_a_part = 16;  // a new peer costs an X25519
  std::size_t allowed_ips_a_part = 256;
};

class UapiParser {
 public:
  explicit UapiParser(UapiLimits limits = {}, InterfaceIndex interface_index = interface_index_of_host);

  // Takes octets up to the end of the current request and says how many it took; call again after the request was
  // served.
  std::size_t feed(std::string_view octets);
  [[nodiscard]] bool complete() const { return complete_; }
  [[nodiscard]] bool started() const { return verb_ != UapiVerb::kNone || unknown_verb_ || !line_.empty(); }

  // Of a complete request:
  [[nodiscard]] UapiVerb verb() const { return verb_; }  // kNone: an operation that we do not know
  [[nodiscard]] int error() const { return error_; }     // 0, or an errno value
  [[nodiscard]] const std::string& error_text() const { return error_text_; }  // for the log: names no value of a key
  [[nodiscard]] std::deque<DeviceChange> take_parts();  // to be applied in this order; one at least
  [[nodiscard]] DeviceChange take_change();             // the same as one
  void reset();

 private:
  void take_line(std::string_view line);
  void take_verb(std::string_view line);
  void take_pair(std::string_view key, std::string_view value);
  bool take_device(std::string_view key, std::string_view value);
  bool take_peer(std::string_view key, std::string_view value);
  void take_public_key(std::string_view value);
  PeerChange& add_peer(const PublicKey& key);
  template <class Change>
  void change_section(Change change);
  void take_allowed_ip(std::string_view value);
  void fail(int code, std::string_view what, std::string_view key);

  UapiLimits limits_;
  InterfaceIndex interface_index_;
  SecretText line_;  // the beginning of a line whose end has not come yet
  std::size_t lines_ = 0, peers_ = 0, allowed_ips_ = 0;
  bool complete_ = false, unknown_verb_ = false, line_too_long_ = false;
  UapiVerb verb_ = UapiVerb::kNone;
  int error_ = 0;
  std::string error_text_;
  std::deque<DeviceChange> parts_;
  std::size_t allowed_ips_of_part_ = 0;
  std::size_t section_part_ = 0, section_peer_ = 0;  // where the current peer's first change lies
};

// A set request's lines that say the change, without "set=1" and without the empty line at the end.
void append_uapi(SecretText& text, const DeviceChange& change);
// A get reply's lines.
void append_uapi(SecretText& text, const DeviceView& device);
void append_uapi(SecretText& text, const PeerView& peer);
void append_uapi_errno(SecretText& text, int code);  // the end of a reply, the empty line included; code as in errno.h

}  // namespace wireplane
