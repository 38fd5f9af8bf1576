#include <dlfcn.h>
#include <limits.h>
#include <linux/capability.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "drivers/ethdev.h"

#ifndef WIREPLANE_MODULE_DIR
#define WIREPLANE_MODULE_DIR "/usr/lib/wireplane"
#endif

namespace wireplane {
namespace {

std::string program_directory() {
  char path[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return ".";
  const std::string whole{path, static_cast<std::size_t>(length)};
  return whole.substr(0, whole.rfind('/'));
}

Result<OpenEthdevFunction> load() {
  std::string reasons;
  for (const std::string& directory : {program_directory(), std::string{WIREPLANE_MODULE_DIR}}) {
    const std::string path = directory + "/" + kEthdevModuleName;
    // Never closed: EAL's threads and our worker threads' registrations live in it until the process ends.
    void* module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
      reasons += std::string{reasons.empty() ? "" : "; "} + ::dlerror();
      continue;
    }
    if (void* symbol = ::dlsym(module, kOpenEthdevSymbol)) return reinterpret_cast<OpenEthdevFunction>(symbol);
    return Error{path + " is no module of ours: " + ::dlerror(), ENOEXEC};
  }
  return Error{"a device port needs the module " + std::string{kEthdevModuleName} + " and DPDK: " + reasons, ENOENT};
}

}  // namespace

Result<std::unique_ptr<EthdevSet>> open_ethdev(const EthdevSetOptions& options) {
  static std::mutex mutex;
  static OpenEthdevFunction loaded = nullptr;
  const std::lock_guard lock{mutex};
  if (loaded == nullptr) {
    auto function = load();
    if (!function) return function.error();
    loaded = *function;
  }
  Error error;
  EthdevSet* set = loaded(options, kEthdevModuleVersion, error);
  if (set == nullptr) return error;
  return std::unique_ptr<EthdevSet>{set};
}

std::vector<int> capabilities_to_reopen(const std::string& device) {
  if (device.starts_with("net_af_packet")) return {CAP_NET_RAW, CAP_IPC_LOCK};  // its ring is locked memory
  // libxdp looks its maps up by their numbers, which the kernel allows to CAP_SYS_ADMIN only.
  if (device.starts_with("net_af_xdp")) return {CAP_NET_RAW, CAP_IPC_LOCK, CAP_BPF, CAP_SYS_ADMIN};
  return {};
}

std::string shared_interface_of(const std::string& device) {
  if (!device.starts_with("net_af_packet") && !device.starts_with("net_af_xdp")) return {};
  const std::string key = ",iface=";
  const std::size_t at = device.find(key);
  if (at == std::string::npos) return {};
  const std::size_t begin = at + key.size();
  return device.substr(begin, device.find(',', begin) - begin);
}

}  // namespace wireplane
