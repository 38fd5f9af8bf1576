// fragment.h: cuts an IPv4 packet that is larger than the MTU of its way out, where its sender allows that.
// spec: RFC 791 §3.2 (fragmentation; options whose copied flag is clear stay in the first fragment), RFC 1812 §4.2.2.7
//
//   | header | 8k octets | 8k octets | rest |
//     ->  | header, MF | 8k octets |   | header', MF, offset | 8k octets |   | header', offset | rest |
//
// A fragment may be cut again: offsets add up, and the last keeps the flag it came with. The packet itself is only
// read; buffers are the caller's. IPv6 is cut by its sender alone: possible() is false, and Packet Too Big the answer.
//
//   for (Fragmenter f{packet, length, mtu}; f.next_length() != 0;) f.write_next(buffer_of(f.next_length()));
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace wireplane {

class Fragmenter {
 public:
  // `packet` has been measured by inner_length() and stays as it is while this lives.
  Fragmenter(const std::uint8_t* packet, std::size_t length, std::size_t mtu);

  // False if the packet is IPv6, has DF set, the MTU leaves no room for eight octets behind the header, or it claims to
  // be a fragment that ends beyond 65,535 octets.
  [[nodiscard]] bool possible() const { return possible_; }
  // Length of the fragment that write_next() will write; 0: no more, or not possible(). A packet that fits is one
  // "fragment".
  [[nodiscard]] std::size_t next_length() const;
  void write_next(std::uint8_t* out);

 private:
  [[nodiscard]] std::size_t header_length() const { return done_ == 0 ? header_ : later_header_size_; }
  [[nodiscard]] std::size_t next_payload() const;

  const std::uint8_t* packet_;
  std::size_t header_{}, payload_{}, mtu_, done_{};  // done_: payload octets written
  std::array<std::uint8_t, 60> later_header_{};      // without the options that are not copied
  std::size_t later_header_size_{};
  bool possible_{}, finished_{};
};

// The whole packet through `place`, std::uint8_t*(std::size_t length), which gives a buffer for each fragment and takes
// it as written when it is called again or this returns; nullptr stops. Returns how many were written; `whole`, if
// given, whether these are all.
template <class Place>
std::size_t fragment_ipv4(const std::uint8_t* packet, std::size_t length, std::size_t mtu, Place&& place,
                          bool* whole = nullptr) {
  Fragmenter f{packet, length, mtu};
  std::size_t written = 0;
  for (; f.next_length() != 0; ++written) {
    std::uint8_t* out = place(f.next_length());
    if (out == nullptr) break;
    f.write_next(out);
  }
  if (whole != nullptr) *whole = f.possible() && f.next_length() == 0;
  return written;
}

}  // namespace wireplane
