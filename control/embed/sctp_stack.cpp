#include "control/embed/sctp_stack.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <usrsctp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "control/embed/crc32c.h"
#include "control/embed/sctp_packet.h"
#include "control/system.h"
#include "dataplane/base/bytes.h"

namespace wireplane {
namespace {

struct Stack {
  std::mutex mutex;
  unsigned users = 0;
  bool running = false;
  bool forked = false;  // after usrsctp was started: what its locks say is no longer true
  Instant ticked{};
  std::uintptr_t next_handle = 1;
  // Addresses that nobody has now. usrsctp knows them still: to make it forget one wakes its thread, which looks at all
  // ends meanwhile, so that they outlive their owners, and it cannot be ended.
  std::vector<std::uintptr_t> spare_handles;
  std::unordered_map<std::uintptr_t, SctpEnd*> ends;
  std::vector<SctpEnd*> woken, acking, hoping;
  Instant looked{};                                        // at those that hope
  std::size_t sure = 0;                                    // octets that were there just now
  std::array<std::uint8_t, SctpEnd::kMostMessage> room{};  // where a message is read to
};

Stack& stack() {
  static Stack& the_one = *new Stack;  // never destroyed: a node may outlive main()
  return the_one;
}

sockaddr_conn address_of_end(std::uintptr_t handle) {
  sockaddr_conn address{};
  address.sconn_family = AF_CONN;
  address.sconn_port = htons(SctpEnd::kPort);
  address.sconn_addr = reinterpret_cast<void*>(handle);
  return address;
}

// usrsctp often takes malloc()'s word unseen, and falls over a null pointer. So malloc() is asked here first, for more
// than the call that follows may want; what was there is used up call by call, and asked for anew. The probe is small
// enough for the heap to keep it, in which usrsctp then finds its pieces.
bool memory_for(std::size_t octets) {
  constexpr std::size_t kProbe = 60 << 10;
  Stack& s = stack();
  if (s.sure < octets) {
    const std::size_t wanted = std::max(octets, kProbe);
    void* volatile probe = std::malloc(wanted);  // volatile: or the compiler knows better
    if (probe == nullptr) return false;
    std::free(probe);
    s.sure = wanted;
  }
  s.sure -= octets;
  return true;
}

constexpr std::size_t kOfACall = 16 << 10, kOfTheStack = 512 << 10, kOfAStream = 256;  // octets, generously

Error no_memory() { return {"usrsctp: out of memory", ENOMEM}; }

void advance_timers(Stack& s) {
  if (!s.running || !memory_for(2 * kOfACall)) return;
  const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(engine_clock() - s.ticked);
  if (passed.count() <= 0) return;
  s.ticked += passed;
  ::usrsctp_handle_timers(static_cast<std::uint32_t>(std::min<std::int64_t>(passed.count(), 1 << 30)));
}

constexpr Duration kBetweenLooks = 250ms, kPatience = 1s;
constexpr std::size_t kChecksumAt = 8;
constexpr unsigned kMostAcksInOne = 16;  // so that a sender hears of every 32nd packet at least

// A chunk that makes usrsctp make or unmake an association: all but DATA and SACK, to be sure.
bool begins_or_ends(std::span<const std::uint8_t> packet) { return packet[12] != 0 && packet[12] != 3; }

constexpr int kSendBufferUse = 0x1101;  // SCTP_GET_SNDBUF_USE, which usrsctp.h leaves out

template <class T>
bool set(SctpSocket* socket, int level, int option, const T& value) {
  return ::usrsctp_setsockopt(socket, level, option, &value, sizeof value) == 0;
}

Error failed(const char* what) { return {std::string{"usrsctp: "} + what + ": " + std::strerror(errno), errno}; }

}  // namespace

struct SctpCallbacks {
  static SctpEnd* find(void* handle) {
    const auto found = stack().ends.find(reinterpret_cast<std::uintptr_t>(handle));
    return found == stack().ends.end() ? nullptr : found->second;
  }
  static int transmit(void* handle, void* packet, std::size_t length, std::uint8_t traffic_class, std::uint8_t) {
    if (SctpEnd* end = find(handle)) end->transmit({static_cast<std::uint8_t*>(packet), length}, traffic_class);
    return 0;
  }
  static void wake(SctpSocket*, void* handle, int) {
    SctpEnd* end = find(handle);
    if (end == nullptr || end->woken_) return;
    end->woken_ = true;
    stack().woken.push_back(end);
  }
};

// ---- one a process

Status SctpStack::start() {
  Stack& s = stack();
  if (s.forked) return Error{"streams: this process was forked from one that used them", ENOTSUP};
  ++s.users;
  if (s.running) return Nothing{};
  if (!memory_for(kOfTheStack)) {
    --s.users;
    return no_memory();
  }
  s.running = true;
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { stack().forked = stack().running; });
  if (registered != 0) return Error{"pthread_atfork", registered};
  ::usrsctp_init_nothreads(0, SctpCallbacks::transmit, nullptr);
  ::usrsctp_enable_crc32c_offload();  // transmit() and input() see to it
  s.ticked = engine_clock();
  // Inside a tunnel between two keys there is no use for authentication and addresses that come and go; nor for other
  // extensions, whose chunks input() refuses.
  ::usrsctp_sysctl_set_sctp_auth_enable(0);
  ::usrsctp_sysctl_set_sctp_asconf_enable(0);
  ::usrsctp_sysctl_set_sctp_auto_asconf(0);
  ::usrsctp_sysctl_set_sctp_pr_enable(0);
  ::usrsctp_sysctl_set_sctp_reconfig_enable(0);
  ::usrsctp_sysctl_set_sctp_nrsack_enable(0);
  ::usrsctp_sysctl_set_sctp_pktdrop_enable(0);
  ::usrsctp_sysctl_set_sctp_initial_cwnd(10);                     // RFC 6928 says so of TCP
  ::usrsctp_sysctl_set_sctp_max_burst_default(0);                 // the congestion window alone limits a burst
  ::usrsctp_sysctl_set_sctp_L2_abc_variable(2 * kMostAcksInOne);  // packets by which one acknowledgement may widen it
  ::usrsctp_sysctl_set_sctp_rto_initial_default(1000);
  ::usrsctp_sysctl_set_sctp_rto_min_default(200);  // as Linux does for TCP
  ::usrsctp_sysctl_set_sctp_rto_max_default(10000);
  ::usrsctp_sysctl_set_sctp_init_rto_max_default(10000);
  ::usrsctp_sysctl_set_sctp_delayed_sack_time_default(20);
  ::usrsctp_sysctl_set_sctp_max_chunks_on_queue(8192);
  return Nothing{};
}

void SctpStack::stop() {
  Stack& s = stack();
  if (--s.users == 0) s.running = ::usrsctp_finish() != 0;  // it may hold on to something: then it is used again
  if (!s.running) s.spare_handles.clear();
}

bool SctpStack::forked() { return stack().forked; }

SctpStack::Use::Use() {
  if (stack().forked) return;
  stack().mutex.lock();
  stack().sure = 0;  // others may have it by now
  advance_timers(stack());
  look_at_those_that_hope();
}

// Backwards: whoever hopes no more leaves its place to the last one.
void SctpStack::look_at_those_that_hope() {
  Stack& s = stack();
  if (s.hoping.empty() || s.ticked - s.looked < kBetweenLooks) return;
  s.looked = s.ticked;
  for (std::size_t i = s.hoping.size(); i-- != 0;) {
    SctpEnd& end = *s.hoping[i];
    if (s.ticked - end.heard_ >= kPatience) end.listen_for_the_end();
    if (end.hoping_) continue;
    s.hoping[i] = s.hoping.back();
    s.hoping.pop_back();
  }
}

SctpStack::Use::~Use() {
  Stack& s = stack();
  if (s.forked) return;
  while (!s.woken.empty()) {
    SctpEnd* end = s.woken.back();
    s.woken.pop_back();
    end->woken_ = false;
    end->take();
    if (std::exchange(end->blocked_, false)) end->user_.writable();
  }
  for (SctpEnd* end : s.acking) end->send_ack();
  s.acking.clear();
  s.mutex.unlock();
}

// ---- one end of an association

Result<std::unique_ptr<SctpEnd>> SctpEnd::open(SctpUser& user, const SctpOptions& options) {
  if (!memory_for(2 * kOfACall + kOfAStream * options.streams)) return no_memory();
  std::unique_ptr<SctpEnd> end{new SctpEnd{user, options}};
  Stack& s = stack();
  s.woken.reserve(s.ends.size() + 1);  // usrsctp calls back: nothing may be thrown through it
  s.acking.reserve(s.ends.size() + 1);
  s.hoping.reserve(s.ends.size() + 1);
  s.spare_handles.reserve(s.spare_handles.size() + s.ends.size() + 1);
  const bool fresh = s.spare_handles.empty();
  const std::uintptr_t handle = fresh ? s.next_handle : s.spare_handles.back();
  s.ends.emplace(handle, end.get());
  end->handle_ = handle;
  if (fresh) {
    ++s.next_handle;
    ::usrsctp_register_address(reinterpret_cast<void*>(handle));
  } else {
    s.spare_handles.pop_back();
  }
  if (Status done = end->configure(); !done) return done.error();
  return end;
}

Status SctpEnd::configure() {
  // One-to-many: an association is accepted and begun by the same socket, also by both sides at the same time.
  socket_ = ::usrsctp_socket(AF_CONN, SOCK_SEQPACKET, IPPROTO_SCTP, nullptr, nullptr, 0, nullptr);
  if (socket_ == nullptr) return failed("socket");
  sctp_paddrparams path{};
  path.spp_flags = SPP_PMTUD_DISABLE | SPP_HB_DISABLE;                  // WireGuard's keepalives are for that
  path.spp_pathmtu = static_cast<std::uint32_t>(options_.packet - 12);  // to usrsctp: without the common header
  sctp_initmsg init{};
  init.sinit_num_ostreams = init.sinit_max_instreams = static_cast<std::uint16_t>(options_.streams);
  const sctp_event changes{SCTP_ALL_ASSOC, SCTP_ASSOC_CHANGE, 1};
  const linger abort_at_close{1, 0};
  const int buffer = static_cast<int>(options_.buffer), on = 1;
  const bool configured =
      ::usrsctp_set_non_blocking(socket_, 1) == 0 && set(socket_, IPPROTO_SCTP, SCTP_PEER_ADDR_PARAMS, path) &&
      set(socket_, IPPROTO_SCTP, SCTP_INITMSG, init) && set(socket_, IPPROTO_SCTP, SCTP_EVENT, changes) &&
      set(socket_, IPPROTO_SCTP, SCTP_NODELAY, on) && set(socket_, IPPROTO_SCTP, SCTP_RECVRCVINFO, on) &&
      set(socket_, SOL_SOCKET, SO_LINGER, abort_at_close) && set(socket_, SOL_SOCKET, SO_SNDBUF, buffer) &&
      set(socket_, SOL_SOCKET, SO_RCVBUF, buffer);
  if (!configured) return failed("setsockopt");
  sockaddr_conn address = address_of_end(handle_);
  if (::usrsctp_bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return failed("bind");
  bound_ = true;
  if (::usrsctp_listen(socket_, 1) != 0) return failed("listen");
  ::usrsctp_set_upcall(socket_, SctpCallbacks::wake, reinterpret_cast<void*>(handle_));
  return Nothing{};
}

SctpEnd::~SctpEnd() {
  if (socket_ != nullptr) {
    ::usrsctp_set_upcall(socket_, nullptr, nullptr);
    ::usrsctp_close(socket_);
  }
  if (bound_)
    stack().spare_handles.push_back(handle_);  // there is room: open()
  else if (handle_ != 0)
    ::usrsctp_deregister_address(reinterpret_cast<void*>(handle_));
  stack().ends.erase(handle_);
  std::erase(stack().woken, this);
  std::erase(stack().acking, this);
  std::erase(stack().hoping, this);
}

// Ends the association, not us; the next send() begins another one.
void SctpEnd::abort() {
  sockaddr_conn to = address_of_end(handle_);
  sctp_sndinfo info{};
  info.snd_flags = SCTP_ABORT;
  ::usrsctp_sendv(socket_, &info, 0, reinterpret_cast<sockaddr*>(&to), 1, &info, sizeof info, SCTP_SENDV_SNDINFO, 0);
}

void SctpEnd::associate() {
  if (!memory_for(kOfACall + 2 * kOfAStream * options_.streams)) return;  // the first send() tries again
  sockaddr_conn address = address_of_end(handle_);
  ::usrsctp_connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address);  // EISCONN: good
  hope();
}

void SctpEnd::hope() {
  begun_ = true;
  if (std::exchange(hoping_, true)) return;
  heard_ = stack().ticked;
  stack().hoping.push_back(this);
}

// usrsctp may have given up and said so where nobody looked; or not even that, for want of memory. With no room for
// what arrived its last word stands behind that, and is heard when there is.
void SctpEnd::listen_for_the_end() {
  if (!user_.has_room()) return;
  listening_ = true;
  take();
  listening_ = false;
  if (begun_ && associations() == 0) {
    begun_ = false;
    association_ = 0;
    user_.broken(EHOSTUNREACH);
  }
  const bool idle = association_ != 0 && queued() == 0;
  if (idle && blocked_) SctpCallbacks::wake(socket_, reinterpret_cast<void*>(handle_), 0);
  hoping_ = begun_ && (!idle || blocked_);
}

// An acknowledgement without gaps is worth nothing once there is a later one: it waits until the end of the Use for
// that. One with gaps is sent at once, as the sender counts them (RFC 9260 §7.2.4), and replaces what waits, as does
// one that travels with data.
void SctpEnd::transmit(std::span<std::uint8_t> packet, std::uint8_t traffic_class) {
  constexpr std::uint8_t kSack = 3;
  const bool ack = packet.size() >= kBareAck && packet[12] == kSack;
  if (ack && packet.size() == kBareAck) {
    std::ranges::copy(packet, ack_.begin());
    ack_class_ = traffic_class;
    if (acks_ == 0) stack().acking.push_back(this);
    if (++acks_ == kMostAcksInOne) {
      send_ack();
      std::erase(stack().acking, this);
    }
    return;
  }
  if (ack && std::exchange(acks_, 0) != 0) std::erase(stack().acking, this);
  store_be32(packet.data() + kChecksumAt, crc32c_of_sctp(packet.data(), packet.size()));
  user_.transmit(packet, traffic_class);
}

void SctpEnd::send_ack() {
  acks_ = 0;
  store_be32(ack_.data() + kChecksumAt, crc32c_of_sctp(ack_.data(), ack_.size()));
  user_.transmit(ack_, ack_class_);
}

bool SctpEnd::input(std::span<const std::uint8_t> packet, std::uint8_t ecn) {
  if (!is_well_formed_sctp(packet, kPort) ||
      load_be32(packet.data() + kChecksumAt) != crc32c_of_sctp(packet.data(), packet.size()))
    return false;
  if (!memory_for(kOfACall + 4 * packet.size() + (begins_or_ends(packet) ? 2 * kOfAStream * options_.streams : 0)))
    return false;  // lost, as in the network: it comes again
  ::usrsctp_conninput(reinterpret_cast<void*>(handle_), packet.data(), packet.size(), ecn);
  heard_ = stack().ticked;
  // usrsctp does not wake writers of this kind of socket. Worth it: room for the largest message, or a quarter.
  if (blocked_ && queued() <= options_.buffer - std::min(options_.buffer, std::max(kMostMessage, options_.buffer / 4)))
    SctpCallbacks::wake(socket_, reinterpret_cast<void*>(handle_), 0);
  return true;
}

std::size_t SctpEnd::associations() const {
  std::uint32_t count = 0;
  socklen_t length = sizeof count;
  return ::usrsctp_getsockopt(socket_, IPPROTO_SCTP, SCTP_GET_ASSOC_NUMBER, &count, &length) == 0 ? count : 0;
}

std::size_t SctpEnd::queued() const {
  struct {
    sctp_assoc_t association;
    std::uint32_t to_send, received;
  } use{association_, 0, 0};
  socklen_t length = sizeof use;
  const bool known = ::usrsctp_getsockopt(socket_, IPPROTO_SCTP, kSendBufferUse, &use, &length) == 0;
  return known ? use.to_send : 0;
}

int SctpEnd::send(std::uint16_t id, std::uint32_t ppid, std::span<const std::uint8_t> octets) {
  if (!memory_for(kOfACall + 4 * octets.size() + (association_ == 0 ? 2 * kOfAStream * options_.streams : 0))) {
    blocked_ = true;
    if (association_ != 0) hope();  // which looks whether it is worth trying again
    return ENOMEM;
  }
  sockaddr_conn to = address_of_end(handle_);
  sctp_sndinfo info{};
  info.snd_sid = id;
  info.snd_ppid = htonl(ppid);
  const ssize_t sent = ::usrsctp_sendv(socket_, octets.data(), octets.size(), reinterpret_cast<sockaddr*>(&to), 1,
                                       &info, sizeof info, SCTP_SENDV_SNDINFO, 0);
  if (sent >= 0) hope();
  if (sent >= 0) return 0;
  const int code = errno == EWOULDBLOCK || errno == ENOBUFS ? EAGAIN : errno;
  if (code == EAGAIN) blocked_ = true;
  return code;
}

void SctpEnd::take() {
  Stack& s = stack();
  while (user_.has_room()) {
    sockaddr_conn from{};
    sctp_rcvinfo info{};
    socklen_t from_length = sizeof from, info_length = sizeof info;
    unsigned info_type = 0;
    int flags = 0;
    const ssize_t got = ::usrsctp_recvv(socket_, s.room.data(), s.room.size(), reinterpret_cast<sockaddr*>(&from),
                                        &from_length, &info, &info_length, &info_type, &flags);
    if (got <= 0) return;
    if ((flags & MSG_NOTIFICATION) != 0)
      notified(s.room.data());
    else
      user_.arrived(info.rcv_sid, ntohl(info.rcv_ppid), std::span{s.room}.first(static_cast<std::size_t>(got)),
                    (flags & MSG_EOR) != 0);
  }
}

// What no packet said is usrsctp's own verdict: nobody answers.
void SctpEnd::notified(const void* notification) {
  sctp_assoc_change change;
  std::memcpy(&change, notification, sizeof change);
  if (change.sac_type != SCTP_ASSOC_CHANGE) return;
  if (change.sac_state == SCTP_COMM_UP || change.sac_state == SCTP_RESTART) {
    association_ = change.sac_assoc_id;
    if (change.sac_state == SCTP_RESTART) user_.broken(ECONNRESET);
    return user_.established(std::min(change.sac_inbound_streams, change.sac_outbound_streams));
  }
  association_ = 0;
  begun_ = false;
  user_.broken(listening_ || change.sac_state == SCTP_CANT_STR_ASSOC ? EHOSTUNREACH : ECONNRESET);
}

}  // namespace wireplane
