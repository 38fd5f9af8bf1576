// QUIC over a node: ngtcp2's packets as datagrams, in bursts, with the ECN marks of its congestion control.
//
//   embed_quic_echo server | client [MEGABYTES]
//
// Each prints its line (key, address:port) and reads the other's. The client sends octets over a stream, the server
// sends them back, the client compares. QUIC's own TLS is there because QUIC cannot do without; who the other is has
// been proved by the tunnel, so the certificate is made on the spot, and believed.
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netinet/in.h>
#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>

#include <cstring>
#include <deque>
#include <iostream>
#include <random>

#include "control/embed/node.h"

using namespace wireplane;

namespace {

struct Failed {
  std::string why;
};
template <class T>
T must(Result<T> result, const char* what) {
  if (!result) throw Failed{std::string{what} + ": " + result.error().what};
  return std::move(*result);
}
void must_tls(int code, const char* what) {
  if (code < 0) throw Failed{std::string{what} + ": " + gnutls_strerror(code)};
}
void must_quic(ngtcp2_ssize code, const char* what) {
  if (code < 0) throw Failed{std::string{what} + ": " + ngtcp2_strerror(static_cast<int>(code))};
}

ngtcp2_tstamp now() {
  return static_cast<ngtcp2_tstamp>(std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds{1});
}
void random_octets(std::uint8_t* into, std::size_t count) {
  if (gnutls_rnd(GNUTLS_RND_RANDOM, into, count) < 0) std::abort();  // called by ngtcp2, too: nothing may be thrown
}
ngtcp2_cid random_cid() {
  ngtcp2_cid cid{};
  cid.datalen = NGTCP2_MAX_CIDLEN;
  random_octets(cid.data, cid.datalen);
  return cid;
}

// ---- TLS, as QUIC wants it

class Tls {
 public:
  Tls(bool server, ngtcp2_crypto_conn_ref* connection) {
    must_tls(gnutls_certificate_allocate_credentials(&credentials_), "credentials");
    if (server) make_certificate();
    must_tls(gnutls_init(&session_, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NO_END_OF_EARLY_DATA),
             "gnutls_init");
    must_tls(gnutls_priority_set_direct(session_, "NORMAL:-VERS-ALL:+VERS-TLS1.3:%DISABLE_TLS13_COMPAT_MODE", nullptr),
             "priorities");
    must_tls(gnutls_credentials_set(session_, GNUTLS_CRD_CERTIFICATE, credentials_), "credentials");
    if ((server ? ngtcp2_crypto_gnutls_configure_server_session(session_)
                : ngtcp2_crypto_gnutls_configure_client_session(session_)) != 0)
      throw Failed{"TLS cannot be configured for QUIC"};
    gnutls_session_set_ptr(session_, connection);
    std::uint8_t name[] = {'e', 'c', 'h', 'o'};
    const gnutls_datum_t protocol{name, sizeof name};
    must_tls(gnutls_alpn_set_protocols(session_, &protocol, 1, GNUTLS_ALPN_MANDATORY), "ALPN");
  }
  ~Tls() {
    gnutls_deinit(session_);
    gnutls_certificate_free_credentials(credentials_);
  }
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;
  [[nodiscard]] gnutls_session_t session() const { return session_; }

 private:
  void make_certificate() {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t certificate;
    must_tls(gnutls_x509_privkey_init(&key), "key");
    must_tls(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
             "key");
    must_tls(gnutls_x509_crt_init(&certificate), "certificate");
    const std::uint8_t serial = 1;
    gnutls_x509_crt_set_version(certificate, 3);
    gnutls_x509_crt_set_serial(certificate, &serial, 1);
    gnutls_x509_crt_set_activation_time(certificate, std::time(nullptr) - 3600);
    gnutls_x509_crt_set_expiration_time(certificate, std::time(nullptr) + 86400);
    gnutls_x509_crt_set_key(certificate, key);
    must_tls(gnutls_x509_crt_sign2(certificate, certificate, key, GNUTLS_DIG_SHA256, 0), "certificate");
    must_tls(gnutls_certificate_set_x509_key(credentials_, &certificate, 1, key), "certificate");
    gnutls_x509_crt_deinit(certificate);
    gnutls_x509_privkey_deinit(key);
  }
  gnutls_certificate_credentials_t credentials_{};
  gnutls_session_t session_{};
};

// ---- one end of a QUIC connection, on one peer of a node

class QuicEnd {
 public:
  QuicEnd(Node& node, NodePeer peer, bool server, std::vector<std::uint8_t> to_send)
      : node_{node}, peer_{peer}, server_{server}, reference_{get_connection, this}, tls_{server, &reference_} {
    local_ = address_of_path(node.address());
    remote_ = address_of_path(peer.address);
    path_ = {{reinterpret_cast<ngtcp2_sockaddr*>(&local_), sizeof local_},
             {reinterpret_cast<ngtcp2_sockaddr*>(&remote_), sizeof remote_},
             nullptr};
    if (!to_send.empty()) expected_ = to_send, chunks_.push_back(std::move(to_send));
    if (!server) begin(random_cid(), nullptr);
  }
  ~QuicEnd() { ngtcp2_conn_del(connection_); }
  QuicEnd(const QuicEnd&) = delete;
  QuicEnd& operator=(const QuicEnd&) = delete;

  // Until the connection has ended: the client ends it when everything has come back.
  void run() {
    while (!ended_) {
      if (connection_ != nullptr) {
        if (ngtcp2_conn_get_expiry(connection_) <= now())
          must_quic(ngtcp2_conn_handle_expiry(connection_, now()), "timer");
        if (!server_ && echoed_ == expected_.size() && finished_)
          end_connection();
        else
          write();
      }
      flush();
      must(node_.wait(time_to_wait()), "wait");
      while (node_.receive([this](const Received& in) { read(in); }) != 0) {
      }
    }
    for (int i = 0; i < 5; ++i) must(node_.wait(2ms), "wait");  // the last packet is on its way
  }

  std::size_t echoed_ = 0;  // octets that came back as they were, or that were sent back
  std::size_t packets_ = 0, packets_with_ecn_ = 0, bursts_ = 0;

 private:
  static constexpr std::size_t kBurst = 32;
  static constexpr std::uint64_t kWindow = 1 << 20;
  using Packet = std::vector<std::uint8_t>;

  static ngtcp2_conn* get_connection(ngtcp2_crypto_conn_ref* reference) {
    return static_cast<QuicEnd*>(reference->user_data)->connection_;
  }
  static sockaddr_in6 address_of_path(const Address& address) {
    sockaddr_in6 out{};
    out.sin6_family = AF_INET6;
    out.sin6_port = htons(kDatagramPort);
    std::memcpy(&out.sin6_addr, address.octets.data(), 16);
    return out;
  }

  ngtcp2_callbacks callbacks() const {
    ngtcp2_callbacks c{};
    c.client_initial = ngtcp2_crypto_client_initial_cb;
    c.recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
    c.recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb;
    c.encrypt = ngtcp2_crypto_encrypt_cb;
    c.decrypt = ngtcp2_crypto_decrypt_cb;
    c.hp_mask = ngtcp2_crypto_hp_mask_cb;
    c.recv_retry = ngtcp2_crypto_recv_retry_cb;
    c.update_key = ngtcp2_crypto_update_key_cb;
    c.delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb;
    c.delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb;
    c.get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb;
    c.version_negotiation = ngtcp2_crypto_version_negotiation_cb;
    c.rand = [](std::uint8_t* into, std::size_t count, const ngtcp2_rand_ctx*) { random_octets(into, count); };
    c.get_new_connection_id = [](ngtcp2_conn*, ngtcp2_cid* cid, std::uint8_t* token, std::size_t length, void*) {
      cid->datalen = length;
      random_octets(cid->data, length);
      random_octets(token, NGTCP2_STATELESS_RESET_TOKENLEN);
      return 0;
    };
    c.extend_max_local_streams_bidi = [](ngtcp2_conn* connection, std::uint64_t, void* self) {
      auto& end = *static_cast<QuicEnd*>(self);
      if (end.stream_ < 0 && !end.server_) return ngtcp2_conn_open_bidi_stream(connection, &end.stream_, nullptr);
      return 0;
    };
    c.recv_stream_data = [](ngtcp2_conn*, std::uint32_t flags, std::int64_t stream, std::uint64_t,
                            const std::uint8_t* data, std::size_t count, void* self, void*) {
      return static_cast<QuicEnd*>(self)->take(stream, {data, count}, (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0);
    };
    c.acked_stream_data_offset = [](ngtcp2_conn*, std::int64_t, std::uint64_t offset, std::uint64_t count, void* self,
                                    void*) {
      static_cast<QuicEnd*>(self)->acknowledged(offset + count);
      return 0;
    };
    return c;
  }

  // The client's, or the server's in answer to the packet whose header it gets.
  void begin(const ngtcp2_cid& their_id, const ngtcp2_pkt_hd* first) {
    ngtcp2_settings settings;
    ngtcp2_settings_default(&settings);
    settings.initial_ts = now();
    settings.max_tx_udp_payload_size = node_.max_datagram();  // the node knows its MTU: nothing is to be found out
    settings.no_tx_udp_payload_size_shaping = settings.no_pmtud = 1;
    ngtcp2_transport_params params;
    ngtcp2_transport_params_default(&params);
    params.initial_max_stream_data_bidi_local = params.initial_max_stream_data_bidi_remote = kWindow;
    params.initial_max_data = 2 * kWindow;
    params.initial_max_streams_bidi = 1;
    params.max_idle_timeout = 20 * NGTCP2_SECONDS;
    params.max_udp_payload_size = node_.max_datagram();
    const ngtcp2_cid ours = random_cid();
    const ngtcp2_callbacks all = callbacks();
    if (first != nullptr) {
      params.original_dcid = first->dcid;
      must_quic(ngtcp2_conn_server_new(&connection_, &their_id, &ours, &path_, first->version, &all, &settings, &params,
                                       nullptr, this),
                "server");
    } else {
      must_quic(ngtcp2_conn_client_new(&connection_, &their_id, &ours, &path_, NGTCP2_PROTO_VER_V1, &all, &settings,
                                       &params, nullptr, this),
                "client");
    }
    ngtcp2_conn_set_tls_native_handle(connection_, tls_.session());
  }

  void read(const Received& in) {
    if (!in.datagram || ended_) return;
    if (connection_ == nullptr) {
      ngtcp2_pkt_hd header;
      if (ngtcp2_accept(&header, in.octets.data(), in.octets.size()) != 0) return;
      begin(header.scid, &header);
    }
    ++packets_;
    const ngtcp2_pkt_info info{static_cast<std::uint8_t>(in.traffic_class & NGTCP2_ECN_MASK)};
    if (info.ecn != NGTCP2_ECN_NOT_ECT) ++packets_with_ecn_;
    const int code = ngtcp2_conn_read_pkt(connection_, &path_, &info, in.octets.data(), in.octets.size(), now());
    if (altered_) throw Failed{"what came back is not what was sent, from octet " + std::to_string(echoed_)};
    if (code == NGTCP2_ERR_DRAINING)
      ended_ = true;
    else
      must_quic(code, "read");
  }

  // Stream data has come. The server sends it back, and opens its window as that is acknowledged.
  int take(std::int64_t stream, std::span<const std::uint8_t> data, bool last) {
    finished_ = finished_ || last;
    if (server_) {
      stream_ = stream;
      if (!data.empty()) chunks_.emplace_back(data.begin(), data.end());
      echoed_ += data.size();
      return 0;
    }
    altered_ = altered_ || echoed_ + data.size() > expected_.size() ||
               std::memcmp(&expected_[echoed_], data.data(), data.size()) != 0;
    if (altered_) return NGTCP2_ERR_CALLBACK_FAILURE;
    echoed_ += data.size();
    ngtcp2_conn_extend_max_stream_offset(connection_, stream, data.size());
    ngtcp2_conn_extend_max_offset(connection_, data.size());
    return 0;
  }

  void acknowledged(std::uint64_t until) {
    while (!chunks_.empty() && first_offset_ + chunks_.front().size() <= until) {
      const std::size_t size = chunks_.front().size();
      first_offset_ += size;
      chunks_.pop_front();
      if (!server_) continue;
      ngtcp2_conn_extend_max_stream_offset(connection_, stream_, size);
      ngtcp2_conn_extend_max_offset(connection_, size);
    }
  }

  // What is to be sent next, as ngtcp2 takes it; it keeps pointers until acknowledged().
  std::size_t next_data(std::array<ngtcp2_vec, 16>& out) {
    std::size_t count = 0;
    std::uint64_t at = first_offset_;
    for (auto& chunk : chunks_) {
      if (count == out.size()) break;
      const std::uint64_t skip = sent_ > at ? std::min<std::uint64_t>(sent_ - at, chunk.size()) : 0;
      if (skip < chunk.size()) out[count++] = {chunk.data() + skip, chunk.size() - skip};
      at += chunk.size();
    }
    return count;
  }

  // As many packets as QUIC's congestion control allows now, up to a burst.
  void write() {
    const ngtcp2_tstamp at = now();
    const std::size_t most = std::min(kBurst, ngtcp2_conn_get_send_quantum(connection_) / node_.max_datagram() + 1);
    while (unsent_.size() < most) {
      std::array<ngtcp2_vec, 16> data{};
      const std::size_t pieces = stream_ < 0 ? 0 : next_data(data);
      std::uint64_t left = first_offset_;
      for (const auto& chunk : chunks_) left += chunk.size();
      std::size_t offered = 0;
      for (std::size_t i = 0; i < pieces; ++i) offered += data[i].len;
      const bool all = server_ ? finished_ : true;  // the client's data is all there from the beginning
      const bool last = stream_ >= 0 && all && sent_ + offered == left && !fin_sent_;
      Packet packet(node_.max_datagram());
      ngtcp2_pkt_info info{};
      ngtcp2_ssize taken = -1;
      const ngtcp2_ssize length =
          ngtcp2_conn_writev_stream(connection_, &path_, &info, packet.data(), packet.size(), &taken,
                                    last ? NGTCP2_WRITE_STREAM_FLAG_FIN : NGTCP2_WRITE_STREAM_FLAG_NONE,
                                    pieces != 0 || last ? stream_ : -1, data.data(), pieces, at);
      if (length == NGTCP2_ERR_STREAM_DATA_BLOCKED) {  // by flow control: there may be other things to send
        if (!write_one(packet, -1, at)) break;
        continue;
      }
      must_quic(length, "write");
      if (taken >= 0) {
        sent_ += static_cast<std::uint64_t>(taken);
        fin_sent_ = fin_sent_ || (last && static_cast<std::size_t>(taken) == offered);
      }
      if (length == 0) break;
      packet.resize(static_cast<std::size_t>(length));
      unsent_.push_back({std::move(packet), info.ecn});
    }
    ngtcp2_conn_update_pkt_tx_time(connection_, at);
  }
  bool write_one(Packet& packet, std::int64_t stream, ngtcp2_tstamp at) {
    ngtcp2_pkt_info info{};
    const ngtcp2_ssize length =
        ngtcp2_conn_writev_stream(connection_, &path_, &info, packet.data(), packet.size(), nullptr,
                                  NGTCP2_WRITE_STREAM_FLAG_NONE, stream, nullptr, 0, at);
    must_quic(length, "write");
    if (length == 0) return false;
    packet.resize(static_cast<std::size_t>(length));
    unsent_.push_back({std::move(packet), info.ecn});
    return true;
  }

  // One burst to the node; what its queue does not take waits.
  void flush() {
    std::vector<Datagram> burst;
    for (const auto& [packet, ecn] : unsent_) burst.push_back({.to = peer_, .payload = packet, .traffic_class = ecn});
    if (burst.empty()) return;
    const auto sent = node_.send(burst);
    if (!sent && sent.error().code != EAGAIN) throw Failed{sent.error().what};
    if (sent) ++bursts_, unsent_.erase(unsent_.begin(), unsent_.begin() + static_cast<std::ptrdiff_t>(*sent));
  }

  void end_connection() {
    ngtcp2_connection_close_error why;
    ngtcp2_connection_close_error_default(&why);
    Packet packet(node_.max_datagram());
    ngtcp2_pkt_info info{};
    const ngtcp2_ssize length =
        ngtcp2_conn_write_connection_close(connection_, &path_, &info, packet.data(), packet.size(), &why, now());
    must_quic(length, "close");
    packet.resize(static_cast<std::size_t>(length));
    unsent_.push_back({std::move(packet), info.ecn});
    flush();
    ended_ = true;
  }

  Duration time_to_wait() const {
    if (!unsent_.empty()) return 1ms;
    if (connection_ == nullptr) return 100ms;
    const ngtcp2_tstamp due = ngtcp2_conn_get_expiry(connection_), at = now();
    return due <= at ? Duration{0}
                     : std::min<Duration>(Duration{std::min<ngtcp2_tstamp>(due - at, 100'000'000)}, 100ms);
  }

  Node& node_;
  NodePeer peer_;
  bool server_;
  ngtcp2_crypto_conn_ref reference_;
  Tls tls_;
  sockaddr_in6 local_{}, remote_{};
  ngtcp2_path path_{};
  ngtcp2_conn* connection_ = nullptr;
  std::int64_t stream_ = -1;
  bool finished_ = false, fin_sent_ = false, ended_ = false, altered_ = false;
  std::vector<std::uint8_t> expected_;
  std::deque<std::vector<std::uint8_t>> chunks_;  // not yet acknowledged
  std::uint64_t first_offset_ = 0, sent_ = 0;
  std::vector<std::pair<Packet, std::uint8_t>> unsent_;
};

}  // namespace

int main(int count, char** words) try {
  const bool server = count > 1 && std::string_view{words[1]} == "server";
  std::vector<std::uint8_t> data(server ? 0 : (count > 2 ? std::stoul(words[2]) : 8) * 1'000'000);
  std::mt19937_64 random{7};
  for (std::uint8_t& octet : data) octet = static_cast<std::uint8_t>(random());
  const std::size_t expected = data.size();

  const auto node = must(Node::open(), "open");
  std::cout << node->key_text() << " 127.0.0.1:" << node->port() << std::endl;
  std::string key, endpoint;
  std::cin >> key >> endpoint;
  const NodePeer peer = must(node->add_peer(key, endpoint), "peer");
  const auto begun = std::chrono::steady_clock::now();
  QuicEnd end{*node, peer, server, std::move(data)};
  end.run();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  std::cerr << (server ? "server: " : "client: ") << end.echoed_ << " octets echoed in " << seconds << " s, "
            << end.packets_ << " packets received, " << end.packets_with_ecn_ << " of them with ECN, sent in "
            << end.bursts_ << " bursts\n";
  return end.packets_with_ecn_ != 0 && (server || end.echoed_ == expected) ? 0 : 1;
} catch (const Failed& failed) {
  std::cerr << failed.why << '\n';
  return 1;
}
