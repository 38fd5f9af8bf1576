#include "dataplane/session/session.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <system_error>
#include <type_traits>

#include "dataplane/base/check.h"
#include "dataplane/base/zero_pages.h"

namespace wireplane {

static_assert(std::is_standard_layout_v<Session>,
              "the arena is read by a successor process: plain octets, no pointers");
static_assert(offsetof(Session, sent) == kCacheLine && offsetof(Session, received) == 2 * kCacheLine);
static_assert(offsetof(Session::Received, window) == kCacheLine - sizeof(std::uint64_t));
// Odd, so that the same line of many sessions is not in a few sets of the nearest cache.
static_assert(sizeof(Session) / kCacheLine % 2 == 1);

SessionArena::SessionArena(std::size_t slots) : slots_{slots}, mapped_{slots * sizeof(Session)} {
  // A memfd, so that its pages can be handed over by descriptor; sealed against nothing yet, closed on exec.
  memfd_ = ::memfd_create("wireplane-sessions", MFD_CLOEXEC);
  if (memfd_ < 0) throw std::system_error{errno, std::system_category(), "memfd for sessions"};
  void* memory = MAP_FAILED;
  if (::ftruncate(memfd_, static_cast<off_t>(mapped_)) == 0)
    memory = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd_, 0);
  if (memory == MAP_FAILED) {
    ::close(memfd_);
    throw std::bad_alloc{};
  }
  wish_for_huge_pages(memory, mapped_);
  ::madvise(memory, mapped_, MADV_DONTDUMP);
  ::madvise(memory, mapped_, MADV_DONTFORK);  // a child never holds keys
  locked_ = ::mlock2(memory, mapped_, MLOCK_ONFAULT) == 0;
  sessions_ = static_cast<Session*>(memory);
}

SessionArena::~SessionArena() {
  // Slots are wiped one by one when they retire; what is still live now goes with the pages, zeroed by punching.
  ::madvise(sessions_, mapped_, MADV_REMOVE);
  ::munmap(sessions_, mapped_);
  ::close(memfd_);
}

void SessionArena::wipe_slot(SessionSlot slot) const {
  WG_CHECK(slot.raw() < slots_);
  wipe(&sessions_[slot.raw()], sizeof(Session));
}

}  // namespace wireplane
