// udp_socket.h: making the kernel's UDP sockets, with the options that all of ours have.
#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "dataplane/base/endpoint.h"
#include "dataplane/base/result.h"
#include "drivers/file_descriptor.h"

namespace wireplane {

struct UdpOptions;

[[nodiscard]] Error udp_failed(std::string what);  // and why: errno
bool set_option(int fd, int level, int name, int value);
// Whether the kernel knows an option of UDP; it may be older than the headers.
[[nodiscard]] bool knows_udp_option(int fd, int option);

// Not bound yet. Own address and DS field come with every datagram; outer packets may be fragmented.
[[nodiscard]] Result<FileDescriptor> make_udp_socket(const UdpOptions& options, Address::Family family);
// `local` without a family: any address.
[[nodiscard]] bool bind_udp_socket(int fd, Address::Family family, const Address& local, std::uint16_t port);
[[nodiscard]] std::uint16_t bound_udp_port(int fd);
// Own address with every datagram, or not.
bool ask_for_own_address(int fd, Address::Family family, bool wanted);

}  // namespace wireplane
