#include "dataplane/staging.h"

#include <algorithm>
#include <bit>

#include "dataplane/base/check.h"
#include "dataplane/session/peer_state.h"

namespace wireplane {

Staging::Staging(std::size_t capacity) : nodes_(std::max<std::size_t>(capacity, 1)) {
  for (Index i = 0; i < nodes_.size(); ++i) nodes_[i].next_free = i + 1 < nodes_.size() ? i + 1 : kNone;
  free_node_ = 0;
  for (Lists& lists : lists_) {
    lists.at.resize(nodes_.size());  // a list has at least one node
    lists.chains.assign(std::bit_ceil(2 * nodes_.size()), kNone);
    for (Index i = 0; i < lists.at.size(); ++i) lists.at[i].next = i + 1 < lists.at.size() ? i + 1 : kNone;
    lists.free = 0;
  }
  classes_.fill(kNone);
}

void Staging::add(const Packet& packet, PeerId peer, WorkerContext& context) {
  const Index waiting = find(peer);
  if (waiting != kNone && lists_[kQueue].at[waiting].count == kMaxStagedPackets)
    drop(lists_[kQueue].at[waiting].oldest, context, Drop::kStagedOverflow);
  else if (free_node_ == kNone)
    drop(lists_[kSource].at[heaviest_source()].oldest, context, Drop::kStagedOverflow);

  const Index node = free_node_;
  free_node_ = nodes_[node].next_free;
  nodes_[node].packet = packet;
  link(kQueue, lists_[kQueue].find_or_add(key_of(peer)), node);
  const Index source = lists_[kSource].find_or_add(source_of(packet));
  weigh(source, false);
  link(kSource, source, node);
  weigh(source, true);
  ++count_;
}

bool Staging::take(PeerId peer, Packet& packet) {
  const Index queue = find(peer);
  if (queue == kNone) return false;
  const Index node = lists_[kQueue].at[queue].oldest;
  packet = nodes_[node].packet;
  remove(node);
  return true;
}

void Staging::purge(PeerId peer, WorkerContext& context, Drop reason) {
  Packet packet;
  while (take(peer, packet)) context.drop(packet, reason);
}

void Staging::purge_all(WorkerContext& context, Drop reason) {
  for (Index chain : lists_[kQueue].chains)
    while (chain != kNone) {
      const List& queue = lists_[kQueue].at[chain];
      const Index next = queue.next;
      for (std::uint32_t left = queue.count; left != 0; --left) drop(lists_[kQueue].at[chain].oldest, context, reason);
      chain = next;
    }
}

void Staging::drop(Index node, WorkerContext& context, Drop reason) {
  Packet packet = nodes_[node].packet;
  remove(node);
  context.drop(packet, reason);
}

void Staging::remove(Index node) {
  const Index source = nodes_[node].in[kSource].list;
  weigh(source, false);
  unlink(kSource, node);
  if (lists_[kSource].at[source].count == 0)
    lists_[kSource].erase(source);
  else
    weigh(source, true);
  const Index queue = nodes_[node].in[kQueue].list;
  unlink(kQueue, node);
  if (lists_[kQueue].at[queue].count == 0) lists_[kQueue].erase(queue);
  nodes_[node].next_free = free_node_;
  free_node_ = node;
  --count_;
}

void Staging::link(Kind kind, Index at, Index node) {
  List& list = lists_[kind].at[at];
  nodes_[node].in[kind] = {.list = at, .older = list.newest, .newer = kNone};
  (list.newest == kNone ? list.oldest : nodes_[list.newest].in[kind].newer) = node;
  list.newest = node;
  ++list.count;
}

void Staging::unlink(Kind kind, Index node) {
  const Links& links = nodes_[node].in[kind];
  List& list = lists_[kind].at[links.list];
  (links.older == kNone ? list.oldest : nodes_[links.older].in[kind].newer) = links.newer;
  (links.newer == kNone ? list.newest : nodes_[links.newer].in[kind].older) = links.older;
  --list.count;
}

void Staging::weigh(Index source, bool in) {
  std::vector<List>& sources = lists_[kSource].at;
  List& list = sources[source];
  if (list.count == 0) return;  // new, or about to go: in no class
  Index& first = classes_[static_cast<std::size_t>(std::bit_width(list.count))];
  if (in) {
    list.lighter = kNone;
    list.heavier = first;
    if (first != kNone) sources[first].lighter = source;
    first = source;
  } else {
    (list.lighter == kNone ? first : sources[list.lighter].heavier) = list.heavier;
    if (list.heavier != kNone) sources[list.heavier].lighter = list.lighter;
  }
}

Staging::Index Staging::heaviest_source() const {
  for (std::size_t weight = classes_.size(); weight-- != 0;)
    if (classes_[weight] != kNone) return classes_[weight];
  WG_CHECK(false && "nothing waits");
  return kNone;
}

std::uint64_t Staging::source_of(const Packet& packet) {
  return packet.from_peer == nullptr ? UINT64_MAX : key_of(packet.from_peer->id);
}

Staging::Index* Staging::Lists::chain(std::uint64_t key) {
  return &chains[(key * 0x9e3779b97f4a7c15ull) >> 32 & (chains.size() - 1)];
}

Staging::Index Staging::Lists::find(std::uint64_t key) const {
  Index i = *const_cast<Lists*>(this)->chain(key);
  while (i != kNone && at[i].key != key) i = at[i].next;
  return i;
}

Staging::Index Staging::Lists::find_or_add(std::uint64_t key) {
  if (const Index found = find(key); found != kNone) return found;
  WG_CHECK(free != kNone);  // as many lists as nodes, and the caller holds a free node
  const Index added = free;
  free = at[added].next;
  Index* head = chain(key);
  at[added] = List{};
  at[added].key = key;
  at[added].next = *head;
  *head = added;
  return added;
}

void Staging::Lists::erase(Index list) {
  Index* place = chain(at[list].key);
  while (*place != list) place = &at[*place].next;
  *place = at[list].next;
  at[list].next = free;
  free = list;
}

}  // namespace wireplane
