#include "drivers/ethdev_xdp.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

namespace wireplane {
namespace {

constexpr std::int32_t kToKernel = XDP_PASS;
constexpr std::int32_t kUdp = 17, kHopByHop = 0, kRouting = 43, kFragment = 44, kDestinationOptions = 60;

// The program, instruction by instruction. Jumps name labels; finish() resolves them. Registers: r6 context, r2 frame,
// r3 its end, r7 the header in hand, r0 and r4 scratch.
class Assembler {
 public:
  enum class To { kTake, kPass, kV4, kV6, kNetwork, kPorts, kExtended };

  void move(int to, int from) { add({BPF_ALU64 | BPF_MOV | BPF_X, reg(to), reg(from), 0, 0}); }
  void set(int to, std::int32_t value) { add({BPF_ALU64 | BPF_MOV | BPF_K, reg(to), 0, 0, value}); }
  void load(int size, int to, int from, std::int16_t at) {
    add({static_cast<std::uint8_t>(BPF_LDX | size | BPF_MEM), reg(to), reg(from), at, 0});
  }
  void change(int operation, int what, std::int32_t by) {
    add({static_cast<std::uint8_t>(BPF_ALU64 | operation | BPF_K), reg(what), 0, 0, by});
  }
  void sum(int to, int from) { add({BPF_ALU64 | BPF_ADD | BPF_X, reg(to), reg(from), 0, 0}); }
  void if_equal(int what, std::int32_t value, To label) {
    jump({BPF_JMP | BPF_JEQ | BPF_K, reg(what), 0, 0, value}, label);
  }
  void if_other(int what, std::int32_t value, To label) {
    jump({BPF_JMP | BPF_JNE | BPF_K, reg(what), 0, 0, value}, label);
  }
  void go(To label) { jump({BPF_JMP | BPF_JA, 0, 0, 0, 0}, label); }
  // Passes the frame unless `count` octets from r7 on are there.
  void need(std::int32_t count) {
    move(4, 7);
    change(BPF_ADD, 4, count);
    jump({BPF_JMP | BPF_JGT | BPF_X, 4, 3, 0, 0}, To::kPass);
  }
  void load_map(int to, int fd) {
    add({BPF_LD | BPF_DW | BPF_IMM, reg(to), BPF_PSEUDO_MAP_FD, 0, fd});
    add({0, 0, 0, 0, 0});
  }
  void call(std::int32_t helper) { add({BPF_JMP | BPF_CALL, 0, 0, 0, helper}); }
  void leave() { add({BPF_JMP | BPF_EXIT, 0, 0, 0, 0}); }
  void here(To label) { labels_[label] = code_.size(); }

  std::vector<bpf_insn> finish() {
    for (const auto& [at, label] : jumps_) code_[at].off = static_cast<std::int16_t>(labels_.at(label) - at - 1);
    return code_;
  }

 private:
  struct Instruction {
    std::uint8_t code, to, from;
    std::int16_t off;
    std::int32_t imm;
  };
  static std::uint8_t reg(int number) { return static_cast<std::uint8_t>(number & 0xf); }
  void add(const Instruction& one) {
    bpf_insn raw{};
    raw.code = one.code;
    raw.dst_reg = one.to & 0xf;
    raw.src_reg = one.from & 0xf;
    raw.off = one.off;
    raw.imm = one.imm;
    code_.push_back(raw);
  }
  void jump(const Instruction& one, To label) {
    jumps_.emplace_back(code_.size(), label);
    add(one);
  }
  std::vector<bpf_insn> code_;
  std::vector<std::pair<std::size_t, To>> jumps_;
  std::map<To, std::size_t> labels_;
};

std::vector<bpf_insn> program(int map, std::uint16_t vlan, std::uint16_t port) {
  using To = Assembler::To;
  Assembler a;
  a.move(6, 1);
  a.load(BPF_W, 2, 6, offsetof(xdp_md, data));
  a.load(BPF_W, 3, 6, offsetof(xdp_md, data_end));
  a.move(7, 2);
  a.need(18);
  a.load(BPF_H, 0, 7, 12);
  if (vlan != 0) {
    a.if_other(0, htons(0x8100), To::kPass);
    a.load(BPF_H, 0, 7, 14);
    a.change(BPF_AND, 0, htons(0x0fff));
    a.if_equal(0, htons(vlan), To::kTake);
    a.go(To::kPass);
  } else {
    a.change(BPF_ADD, 7, 14);
    a.if_equal(0, htons(0x0800), To::kV4);
    a.if_equal(0, htons(0x86dd), To::kV6);
    a.go(To::kPass);

    a.here(To::kV4);
    a.need(20);
    a.load(BPF_B, 0, 7, 9);
    a.if_other(0, kUdp, To::kPass);
    a.load(BPF_H, 0, 7, 6);
    a.change(BPF_AND, 0, htons(0x3fff));
    a.if_other(0, 0, To::kTake);  // a fragment
    a.load(BPF_B, 0, 7, 0);
    a.change(BPF_AND, 0, 0x0f);
    a.change(BPF_LSH, 0, 2);
    a.sum(7, 0);
    a.here(To::kPorts);
    a.need(8);
    a.load(BPF_H, 0, 7, 2);
    a.if_equal(0, htons(port), To::kTake);
    a.go(To::kPass);

    a.here(To::kV6);
    a.need(48);
    a.load(BPF_B, 0, 7, 6);
    a.change(BPF_ADD, 7, 40);
    a.if_equal(0, kUdp, To::kPorts);
    for (const std::int32_t extension : {kHopByHop, kRouting, kFragment, kDestinationOptions})
      a.if_equal(0, extension, To::kExtended);
    a.go(To::kPass);
    a.here(To::kExtended);
    a.load(BPF_B, 0, 7, 0);
    for (const std::int32_t next : {kUdp, kRouting, kFragment, kDestinationOptions}) a.if_equal(0, next, To::kTake);
  }
  a.here(To::kPass);
  a.set(0, kToKernel);
  a.leave();

  a.here(To::kTake);
  a.load_map(1, map);
  a.load(BPF_W, 2, 6, offsetof(xdp_md, rx_queue_index));
  a.set(3, kToKernel);  // where no socket is
  a.call(BPF_FUNC_redirect_map);
  a.leave();
  return a.finish();
}

Error failed(const std::string& what, int code) { return {"XDP filter: " + what + ": " + std::strerror(code), code}; }

}  // namespace

std::vector<int> XdpFilter::sockets() {
  std::vector<int> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd", ignored}) {
    const int fd = std::atoi(entry.path().filename().c_str());
    int domain = 0;
    socklen_t length = sizeof domain;
    if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_XDP) found.push_back(fd);
  }
  return found;
}

Result<XdpFilter> XdpFilter::open(const std::string& interface, std::uint16_t vlan, const std::vector<int>& sockets) {
  XdpFilter filter;
  filter.interface_ = ::if_nametoindex(interface.c_str());
  filter.vlan_ = vlan;
  filter.map_ =
      FileDescriptor{::bpf_map_create(BPF_MAP_TYPE_XSKMAP, "wireplane_xsks", sizeof(std::uint32_t),
                                      sizeof(std::uint32_t), static_cast<std::uint32_t>(sockets.size()), nullptr)};
  if (!filter.map_) return failed("its map of sockets", errno);
  for (std::uint32_t queue = 0; queue < sockets.size(); ++queue)
    if (::bpf_map_update_elem(filter.map_.get(), &queue, &sockets[queue], 0) != 0)
      return failed("the socket of queue " + std::to_string(queue), errno);
  return filter;
}

Status XdpFilter::take(std::uint16_t port) {
  const std::vector<bpf_insn> code = program(map_.get(), vlan_, port);
  bpf_prog_load_opts options{};
  options.sz = sizeof options;
  std::vector<char> words(16'384);
  const FileDescriptor loaded{
      ::bpf_prog_load(BPF_PROG_TYPE_XDP, "wireplane", "Apache-2.0", code.data(), code.size(), &options)};
  if (!loaded) {
    const int code_of_failure = errno;
    options.log_buf = words.data();
    options.log_size = static_cast<std::uint32_t>(words.size());
    options.log_level = 1;
    const FileDescriptor again{
        ::bpf_prog_load(BPF_PROG_TYPE_XDP, "wireplane", "Apache-2.0", code.data(), code.size(), &options)};
    return failed(std::string{"loading the program: "} + words.data(), code_of_failure);
  }
  if (link_) {
    if (::bpf_link_update(link_.get(), loaded.get(), nullptr) != 0) return failed("replacing the program", errno);
    return Nothing{};
  }
  // In place of the one that libxdp attached, in the same mode; as a link, which ends with this process, however it
  // ends.
  const int interface = static_cast<int>(interface_);
  bpf_xdp_query_opts now{};
  now.sz = sizeof now;
  static_cast<void>(::bpf_xdp_query(interface, 0, &now));
  bpf_link_create_opts how{};
  how.sz = sizeof how;
  how.flags = now.attach_mode == XDP_ATTACHED_SKB ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE;
  if (const int outcome = ::bpf_xdp_detach(interface, how.flags, nullptr); outcome != 0)
    return failed("detaching libxdp's program", -outcome);
  link_ = FileDescriptor{::bpf_link_create(loaded.get(), interface, BPF_XDP, &how)};
  if (!link_) return failed("attaching the program", errno);
  return Nothing{};
}

// ---- the fill ring

XdpFillRing XdpFillRing::map(int socket) {
  XdpFillRing ring;
  xdp_mmap_offsets offsets{};
  socklen_t length = sizeof offsets;
  if (::getsockopt(socket, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length) != 0 || length != sizeof offsets) return ring;
  ring.producer_ = offsets.fr.producer;
  ring.consumer_ = offsets.fr.consumer;
  ring.descriptors_ = offsets.fr.desc;
  for (std::size_t entries = 16'384; entries >= 64; entries /= 2) {  // the kernel does not say; it refuses too many
    const std::size_t size = offsets.fr.desc + entries * sizeof(std::uint64_t);
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, socket, XDP_UMEM_PGOFF_FILL_RING);
    if (memory == MAP_FAILED) continue;
    ring.memory_ = static_cast<std::uint8_t*>(memory);
    ring.size_ = size;
    ring.entries_ = entries;
    break;
  }
  return ring;
}

XdpFillRing::XdpFillRing(XdpFillRing&& from) noexcept { *this = std::move(from); }
XdpFillRing& XdpFillRing::operator=(XdpFillRing&& from) noexcept {
  std::swap(memory_, from.memory_);
  std::swap(size_, from.size_);
  std::swap(entries_, from.entries_);
  std::swap(producer_, from.producer_);
  std::swap(consumer_, from.consumer_);
  std::swap(descriptors_, from.descriptors_);
  return *this;
}
XdpFillRing::~XdpFillRing() {
  if (memory_ != nullptr) ::munmap(memory_, size_);
}

std::vector<std::uint64_t> XdpFillRing::addresses() const {
  std::vector<std::uint64_t> found;
  if (memory_ == nullptr) return found;
  std::uint32_t from = 0, to = 0;
  std::memcpy(&from, memory_ + consumer_, sizeof from);
  std::memcpy(&to, memory_ + producer_, sizeof to);
  if (to - from > entries_) return found;  // not what we think it is
  for (; from != to; ++from) {
    std::uint64_t address = 0;
    std::memcpy(&address, memory_ + descriptors_ + from % entries_ * sizeof address, sizeof address);
    found.push_back(address);
  }
  return found;
}

}  // namespace wireplane
