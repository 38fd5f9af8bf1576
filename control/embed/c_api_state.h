// c_api_state.h: what the C ABI is made of, in this library and in libwireplane-ip. Private to c_api*.cpp and
// ip_stack_c_api.cpp.
//
// No exception leaves: what may throw runs within guarded(), and what failed becomes -errno and words for wp_error().
#pragma once
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>

#include "control/embed/node.h"
#include "control/embed/wireplane.h"

struct wp_node {
  std::unique_ptr<wireplane::Node> node;
};

namespace wireplane::c_api {

int fail(const char* what, int code) noexcept;  // says it to wp_error(); returns -code
inline int fail(const Error& error) noexcept { return fail(error.what.c_str(), error.code); }
inline int no_such_peer() noexcept { return fail("no such peer", ENOENT); }

template <class Call>
int guarded(Call call) noexcept {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return fail("out of memory", ENOMEM);
  } catch (const std::exception& failure) {
    return fail(failure.what(), EIO);
  } catch (...) {
    return fail("unknown failure", EIO);
  }
}

inline wp_peer handle_of(const PeerId& id) { return std::uint64_t{id.slot.raw()} << 32 | id.generation; }
inline PeerId id_of(wp_peer handle) {
  return {PeerSlot{static_cast<std::uint32_t>(handle >> 32)}, static_cast<std::uint32_t>(handle)};
}

inline int count_of(const Result<std::size_t>& result) {
  return result ? static_cast<int>(std::min<std::size_t>(*result, INT32_MAX)) : fail(result.error());
}
inline int status_of(const Status& status) { return status ? 0 : fail(status.error()); }

inline Duration time_of(int at_most_ms) {  // less than 0: for ever
  return at_most_ms < 0 ? Duration{24h * 365} : Duration{std::chrono::milliseconds{at_most_ms}};
}

inline std::string_view words(const char* text) { return text == nullptr ? std::string_view{} : text; }
inline std::span<const std::uint8_t> octets_at(const void* data, std::size_t length) {
  return {static_cast<const std::uint8_t*>(data), length};
}

inline wp_message message_of(const Received& in) {
  return {handle_of(in.from.id), in.octets.data(), in.octets.size(), in.port,
          in.from_port,          in.datagram,      in.traffic_class, {}};
}

// The caller may be older than we are, and know less of a structure: what it does not know is zero.
template <class T>
T known_to_both(const T& given) {
  T known{};
  std::memcpy(static_cast<void*>(&known), &given, std::min(given.size, sizeof known));
  return known;
}
template <class T>
void tell(const T& all, T* out) {  // its size stays the caller's
  const std::size_t known = std::min(out->size, sizeof all);
  if (known > sizeof out->size)
    std::memcpy(reinterpret_cast<char*>(out) + sizeof out->size, reinterpret_cast<const char*>(&all) + sizeof out->size,
                known - sizeof out->size);
}

}  // namespace wireplane::c_api
