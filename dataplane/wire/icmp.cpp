#include "dataplane/wire/icmp.h"

#include <algorithm>
#include <cstring>

#include "dataplane/base/bytes.h"
#include "dataplane/wire/inner_ip.h"

namespace wireplane {
namespace {

constexpr std::uint8_t kTtl = 64;
constexpr std::uint8_t kInternetworkControl = 0xc0;  // RFC 1812 §4.3.2.5: precedence of an ICMP error

struct TypeCode {
  std::uint8_t type, code;
};
TypeCode type_code_v4(IcmpError kind) {
  switch (kind) {
    case IcmpError::kTimeExceeded:
      return {11, 0};
    case IcmpError::kUnreachable:
      return {3, 1};
    case IcmpError::kProhibited:
      return {3, 13};
    case IcmpError::kTooBig:
      break;
  }
  return {3, 4};
}
TypeCode type_code_v6(IcmpError kind) {
  switch (kind) {
    case IcmpError::kTimeExceeded:
      return {3, 0};
    case IcmpError::kUnreachable:
      return {1, 3};
    case IcmpError::kProhibited:
      return {1, 1};
    case IcmpError::kTooBig:
      break;
  }
  return {2, 0};
}

// Only what is known to be a question or an answer may cause an error; unknown types may be errors.
bool is_icmp_query(std::uint8_t type) {
  return type == 0 || type == 8 || type == 9 || type == 10 || (type >= 13 && type <= 18);
}

bool may_answer(const std::uint8_t* ip, std::size_t length) {
  if (is_martian_source(ip) || is_local_destination(ip)) return false;
  const Transport t = transport_of(ip, length);
  if (!t.first) return false;
  if (is_ipv4(ip)) return t.protocol != kProtocolIcmp || (t.octets > 0 && is_icmp_query(ip[t.offset]));
  constexpr std::uint8_t kRedirect = 137;
  return t.protocol != kProtocolIcmpv6 || (t.octets > 0 && ip[t.offset] >= 128 && ip[t.offset] != kRedirect);
}

void write_v4(std::uint8_t* out, std::size_t length, TypeCode what, const Address& router, const std::uint8_t* to,
              std::size_t mtu) {
  std::memset(out, 0, kIcmpv4Overhead);
  out[0] = 0x45;
  out[1] = kInternetworkControl;
  store_be16(out + 2, static_cast<std::uint16_t>(length));
  out[6] = 0x40;  // DF: 576 octets pass everywhere, and RFC 6864 then asks for no identification
  out[8] = kTtl;
  out[9] = kProtocolIcmp;
  std::memcpy(out + 12, router.octets.data(), 4);
  std::memcpy(out + 16, to, 4);
  store_be16(out + 10, internet_checksum(out, kIpv4HeaderSize));

  std::uint8_t* icmp = out + kIpv4HeaderSize;
  icmp[0] = what.type;
  icmp[1] = what.code;
  store_be16(icmp + 6, static_cast<std::uint16_t>(mtu));
  store_be16(icmp + 2, internet_checksum(icmp, length - kIpv4HeaderSize));
}

void write_v6(std::uint8_t* out, std::size_t length, TypeCode what, const Address& router, const std::uint8_t* to,
              std::size_t mtu) {
  std::memset(out, 0, kIcmpv6Overhead);
  out[0] = 0x60;
  store_be16(out + 4, static_cast<std::uint16_t>(length - kIpv6HeaderSize));
  out[6] = kProtocolIcmpv6;
  out[7] = kTtl;
  std::memcpy(out + 8, router.octets.data(), 16);
  std::memcpy(out + 24, to, 16);

  std::uint8_t* icmp = out + kIpv6HeaderSize;
  icmp[0] = what.type;
  icmp[1] = what.code;
  store_be32(icmp + 4, static_cast<std::uint32_t>(mtu));
  ChecksumSum sum = pseudo_header_v6(out + 8, out + 24, kProtocolIcmpv6, length - kIpv6HeaderSize);
  sum.add(icmp, length - kIpv6HeaderSize);
  store_be16(icmp + 2, sum.finish());
}

}  // namespace

std::size_t make_icmp_error(IcmpError kind, std::span<const std::uint8_t> offending, const Address& router,
                            std::size_t mtu, std::span<std::uint8_t> out) {
  const bool v4 = is_ipv4(offending.data());
  if (v4 ? !router.is_v4() : !router.is_v6()) return 0;
  if (!may_answer(offending.data(), offending.size())) return 0;
  if (kind == IcmpError::kTooBig && !dont_fragment(offending.data())) return 0;  // it is to be fragmented instead

  const std::size_t overhead = v4 ? kIcmpv4Overhead : kIcmpv6Overhead;
  const std::size_t room = std::min(out.size(), v4 ? kIcmpv4Max : kIcmpv6Max);
  const std::size_t at_least =
      std::min<std::size_t>(offending.size(), ip_header_length(offending.data()) + 8);  // RFC 792
  if (room < overhead + at_least) return 0;
  const std::size_t quoted = std::min(offending.size(), room - overhead);

  std::array<std::uint8_t, 16> to;  // out may lie over it
  std::memcpy(to.data(), source_octets(offending.data()), v4 ? 4 : 16);
  std::memmove(out.data() + overhead, offending.data(), quoted);
  if (kind != IcmpError::kTooBig)
    mtu = 0;
  else
    mtu = v4 ? std::clamp<std::size_t>(mtu, 68, 0xffff) : std::max<std::size_t>(mtu, 1280);
  const std::size_t length = overhead + quoted;
  if (v4)
    write_v4(out.data(), length, type_code_v4(kind), router, to.data(), mtu);
  else
    write_v6(out.data(), length, type_code_v6(kind), router, to.data(), mtu);
  return length;
}

IcmpLimiter::IcmpLimiter(Rate total, Rate each, std::uint64_t hash_secret)
    : total_limit_{total}, each_limit_{each}, hash_secret_{hash_secret} {}

IcmpLimiter::Limit::Limit(Rate rate)
    : interval{rate.per_second == 0 || rate.burst == 0 ? Duration{0}
                                                       : std::max(Duration{1}, Duration{1s} / rate.per_second)},
      tolerance{rate.burst == 0 ? Duration{0} : interval * (rate.burst - 1)} {}

bool IcmpLimiter::Limit::allows(const Bucket& bucket, Instant now) const {
  return interval > Duration{0} && bucket.full_again <= now + tolerance;
}

void IcmpLimiter::Limit::spend(Bucket& bucket, Instant now) const {
  bucket.full_again = std::max(bucket.full_again, now) + interval;
}

bool IcmpLimiter::allow(const Address& to, Instant now) {
  std::uint64_t hash = load_le<std::uint64_t>(to.octets.data()) ^ hash_secret_;  // an IPv4 address, or an IPv6 /64
  hash *= 0x9e3779b97f4a7c15u;
  Bucket& own = each_[hash >> 56];
  if (!each_limit_.allows(own, now) || !total_limit_.allows(total_, now)) return false;
  each_limit_.spend(own, now);
  total_limit_.spend(total_, now);
  return true;
}

}  // namespace wireplane
