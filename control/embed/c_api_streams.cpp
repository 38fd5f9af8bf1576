// c_api_streams.cpp: the streams of wireplane.h on top of stream.h.
#include <algorithm>
#include <cerrno>

#include "control/embed/c_api_state.h"

struct wp_stream {
  wireplane::Stream stream;
  void* user = nullptr;
};

namespace {

using namespace wireplane;
using namespace wireplane::c_api;

int hand_out(Stream& made, wp_stream** stream) {
  *stream = new wp_stream{made};
  made.set_tag(*stream);
  return 0;
}

}  // namespace

extern "C" {

int wp_stream_open(wp_node* node, wp_peer peer, int kind, wp_stream** stream) {
  return guarded([&] {
    *stream = nullptr;
    if (kind != WP_BYTES && kind != WP_MESSAGES) return fail("kind: expected WP_BYTES or WP_MESSAGES", EINVAL);
    const std::optional<NodePeer> known = node->node->find_peer(id_of(peer));
    if (!known) return no_such_peer();
    auto opened = node->node->open_stream(*known, static_cast<Stream::Kind>(kind));
    return opened ? hand_out(*opened, stream) : fail(opened.error());
  });
}

int wp_stream_accept(wp_node* node, int at_most_ms, wp_stream** stream) {
  return guarded([&] {
    *stream = nullptr;
    auto accepted = at_most_ms == 0 ? node->node->accept_stream() : node->node->accept_stream(time_of(at_most_ms));
    return accepted ? hand_out(*accepted, stream) : fail(accepted.error());
  });
}

int wp_stream_next_ready(wp_node* node, wp_stream** stream) {
  return guarded([&] {
    *stream = nullptr;
    for (;;) {
      const Stream ready = node->node->next_ready_stream();
      if (!ready) return 0;
      *stream = static_cast<wp_stream*>(ready.tag());
      if (*stream != nullptr) return 1;  // else accepted a moment ago, by a thread that is about to hand it out
    }
  });
}

int wp_stream_write(wp_stream* stream, const void* data, size_t length, int at_most_ms) {
  return guarded([&] {
    const std::span octets{static_cast<const std::uint8_t*>(data), std::min<std::size_t>(length, INT32_MAX)};
    if (at_most_ms == 0) return count_of(stream->stream.write(octets));
    const Status written = stream->stream.write_all(octets, time_of(at_most_ms));
    return written ? static_cast<int>(octets.size()) : fail(written.error());
  });
}

int wp_stream_read(wp_stream* stream, void* data, size_t room, int at_most_ms, uint32_t* flags) {
  return guarded([&] {
    const std::span octets{static_cast<std::uint8_t*>(data), std::min<std::size_t>(room, INT32_MAX)};
    const Result<Stream::Read> got =
        at_most_ms == 0 ? stream->stream.read(octets) : stream->stream.read(octets, time_of(at_most_ms));
    if (!got) return fail(got.error());
    if (flags != nullptr)
      *flags = std::uint32_t{got->message_end} * WP_MESSAGE_END | std::uint32_t{got->finished} * WP_FINISHED;
    return static_cast<int>(got->octets);
  });
}

int wp_stream_finish(wp_stream* stream) {
  return guarded([&] { return status_of(stream->stream.finish()); });
}
void wp_stream_reset(wp_stream* stream) {
  static_cast<void>(guarded([&] { return stream->stream.reset(), 0; }));
}
void wp_stream_close(wp_stream* stream) {
  static_cast<void>(guarded([&] { return delete stream, 0; }));
}
void wp_stream_deadline(wp_stream* stream, int from_now_ms) {
  static_cast<void>(guarded([&] { return stream->stream.set_deadline(std::chrono::milliseconds{from_now_ms}), 0; }));
}
wp_peer wp_stream_peer(wp_stream* stream) { return handle_of(stream->stream.peer().id); }
uint16_t wp_stream_id(wp_stream* stream) { return stream->stream.id(); }
int wp_stream_kind(wp_stream* stream) { return static_cast<int>(stream->stream.kind()); }
void wp_stream_set_user(wp_stream* stream, void* user) { stream->user = user; }
void* wp_stream_user(wp_stream* stream) { return stream->user; }
size_t wp_stream_max_message(wp_stream* stream) { return stream->stream.max_message(); }

}  // extern "C"
