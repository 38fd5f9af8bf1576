#include "drivers/eal.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>

namespace wireplane {
namespace {

static_assert(RTE_PKTMBUF_HEADROOM == kHeadroom, "received frames must begin where our packets do");

constexpr std::size_t kMegabyte = std::size_t{1} << 20;
constexpr std::size_t kSlack = 96 * kMegabyte;  // rings and descriptors of devices, EAL's own heap
constexpr unsigned kThreadCache = 256;
bool huge_pages = false;

std::size_t free_huge_octets() {
  std::size_t octets = 0;
  std::error_code ignored;
  for (const auto& size : std::filesystem::directory_iterator{"/sys/kernel/mm/hugepages", ignored}) {
    std::size_t kilobytes = 0, pages = 0;
    const std::string name = size.path().filename();
    if (std::sscanf(name.c_str(), "hugepages-%zukB", &kilobytes) != 1) continue;
    std::ifstream file{size.path() / "free_hugepages"};
    if (file >> pages) octets += pages * kilobytes * 1024;
  }
  return octets;
}

int first_allowed_cpu(const cpu_set_t& set) {
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) return cpu;
  return 0;
}

std::vector<std::string> arguments(const std::vector<std::string>& pci, const std::vector<std::string>& extra,
                                   std::size_t memory_octets, int cpu) {
  const std::size_t wanted = memory_octets + kSlack;
  std::vector<std::string> list{"wireplane", "-l", std::to_string(cpu), "--no-telemetry", "--log-level=*:warning"};
  huge_pages = free_huge_octets() >= wanted;
  if (huge_pages)
    list.push_back("--in-memory");
  else
    for (const std::string& one : {std::string{"--no-huge"}, std::string{"--no-shconf"}, std::string{"-m"},
                                   std::to_string(wanted / kMegabyte + 1)})
      list.push_back(one);
  if (pci.empty()) list.push_back("--no-pci");
  for (const std::string& address : pci) {
    list.push_back("-a");
    list.push_back(address);
  }
  list.insert(list.end(), extra.begin(), extra.end());
  return list;
}

}  // namespace

Status start_eal(const std::vector<std::string>& pci, const std::vector<std::string>& extra,
                 std::size_t memory_octets) {
  static bool started = false;
  if (started) return Nothing{};
  cpu_set_t before;
  CPU_ZERO(&before);
  ::sched_getaffinity(0, sizeof before, &before);
  std::vector<std::string> list = arguments(pci, extra, memory_octets, first_allowed_cpu(before));
  std::vector<char*> pointers;
  for (std::string& one : list) pointers.push_back(one.data());
  const int outcome = rte_eal_init(static_cast<int>(pointers.size()), pointers.data());
  const int code = rte_errno;
  ::sched_setaffinity(0, sizeof before, &before);  // EAL has pinned us
  if (outcome < 0) {
    std::string line;
    for (const std::string& one : list) line += " " + one;
    return Error{"starting DPDK with" + line + ": " + rte_strerror(code), code};
  }
  started = true;
  return Nothing{};
}

bool eal_has_huge_pages() { return huge_pages; }

void register_this_thread() {
  struct Registration {
    Registration() : ours{rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() == 0} {}
    ~Registration() {
      if (ours) rte_thread_unregister();
    }
    bool ours;  // if not: slower, no more
  };
  static thread_local const Registration registration;
  static_cast<void>(registration);
}

// ---- the pool

MempoolBuffers::MempoolBuffers(rte_mempool* pool, std::size_t buffers, std::size_t data_room)
    : pool_{pool}, capacity_{buffers}, data_room_{data_room} {
  rte_mempool_obj_iter(
      pool,
      [](rte_mempool*, void* self, void* object, unsigned) {
        auto* mbuf = static_cast<rte_mbuf*>(object);
        auto* buffer = new (rte_mbuf_to_priv(mbuf)) Buffer{};
        buffer->memory = static_cast<std::uint8_t*>(mbuf->buf_addr);
        buffer->pool = static_cast<MempoolBuffers*>(self);
        buffer->native = mbuf;
        buffer->size = mbuf->buf_len;
        buffer->references.store(1, std::memory_order_relaxed);
      },
      this);
}

MempoolBuffers::~MempoolBuffers() { rte_mempool_free(pool_); }

Result<std::unique_ptr<MempoolBuffers>> MempoolBuffers::create(std::size_t buffers, std::size_t data_room) {
  static std::atomic<unsigned> serial{0};  // DPDK refuses a name that was used before
  const std::string name = "wireplane_" + std::to_string(serial.fetch_add(1));
  const std::size_t room = kHeadroom + data_room + kTailroom;
  if (room > UINT16_MAX)
    return Error{"a DPDK buffer holds at most 65535 octets, with headroom: " + std::to_string(room), EINVAL};
  rte_mempool* pool = rte_pktmbuf_pool_create(name.c_str(), static_cast<unsigned>(buffers), kThreadCache,
                                              RTE_ALIGN_CEIL(sizeof(Buffer), RTE_MBUF_PRIV_ALIGN),
                                              static_cast<std::uint16_t>(room), SOCKET_ID_ANY);
  if (pool == nullptr)
    return Error{"DPDK's memory does not hold " + std::to_string(buffers) + " buffers of " + std::to_string(room) +
                     " octets: " + rte_strerror(rte_errno),
                 rte_errno};
  return std::unique_ptr<MempoolBuffers>{new MempoolBuffers{pool, buffers, data_room}};
}

std::size_t MempoolBuffers::memory_octets(std::size_t buffers, std::size_t data_room) {
  constexpr std::size_t kPerBuffer = sizeof(rte_mbuf) + 64 + 64 + 16;  // mempool's header, ours, and its ring's slot
  return buffers * (kPerBuffer + kHeadroom + data_room + kTailroom) * 9 / 8;  // pages do not divide evenly
}

std::size_t MempoolBuffers::take(Buffer** out, std::size_t count) {
  void* objects[64];
  std::size_t taken = 0;
  while (taken < count) {
    auto some = static_cast<unsigned>(std::min(count - taken, std::size(objects)));
    while (some > 0 && rte_mempool_get_bulk(pool_, objects, some) != 0) some /= 2;  // all or nothing: ask for less
    if (some == 0) break;
    for (unsigned i = 0; i < some; ++i) out[taken++] = buffer_of(static_cast<rte_mbuf*>(objects[i]));
  }
  return taken;
}

std::size_t MempoolBuffers::give_back_lost(const std::vector<std::uint64_t>& places) {
  const rte_mempool_memhdr* memory = STAILQ_FIRST(&pool_->mem_list);
  const auto begin = reinterpret_cast<std::uintptr_t>(memory->addr);
  const std::uintptr_t base = begin & ~(static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)) - 1);
  const std::size_t element = pool_->header_size + pool_->elt_size + pool_->trailer_size;
  std::size_t given = 0;
  for (const std::uint64_t place : places) {
    const std::uintptr_t object = base + place + pool_->header_size;
    if (place >= memory->len || object < begin + pool_->header_size || object + element > begin + memory->len) continue;
    auto* mbuf = reinterpret_cast<rte_mbuf*>(object);
    if (mbuf->pool != pool_ || buffer_of(mbuf)->native != mbuf) continue;  // not where we thought
    rte_mempool_put(pool_, mbuf);
    ++given;
  }
  return given;
}

void MempoolBuffers::give(Buffer* const* buffers, std::size_t count) {
  void* objects[64];
  while (count > 0) {
    const auto some = static_cast<unsigned>(std::min(count, std::size(objects)));
    for (unsigned i = 0; i < some; ++i) objects[i] = buffers[i]->native;
    rte_mempool_put_bulk(pool_, objects, some);
    buffers += some;
    count -= some;
  }
}

}  // namespace wireplane
