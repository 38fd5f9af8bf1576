#include "control/cli/config_loader.h"

#include <cerrno>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace wireplane {

// Lives as long as the loader or its thread, whichever is longer.
struct ConfigLoader::Shared {
  std::mutex mutex;
  std::function<void()> done;  // empty: nobody waits any more
  std::optional<ConfigResult> result;
};

ConfigLoader::ConfigLoader(Resolver resolver, std::function<void()> done)
    : resolver_{std::move(resolver)}, shared_{std::make_shared<Shared>()} {
  shared_->done = std::move(done);
}

ConfigLoader::~ConfigLoader() {
  const std::lock_guard lock{shared_->mutex};
  shared_->done = nullptr;
}

Status ConfigLoader::begin(const std::string& file) {
  if (busy_) {
    again_ = file;
    return Nothing{};
  }
  try {
    std::thread{[file, resolver = resolver_, shared = shared_] {
      ConfigResult read = load_config(file, resolver);
      const std::lock_guard lock{shared->mutex};
      if (!shared->done) return;
      shared->result.emplace(std::move(read));
      shared->done();
    }}.detach();
  } catch (const std::system_error& failure) {
    return Error{std::string{"no thread to read the configuration: "} + failure.what(), EAGAIN};
  }
  busy_ = true;
  return Nothing{};
}

std::optional<ConfigResult> ConfigLoader::take() {
  if (!busy_) return std::nullopt;
  std::optional<ConfigResult> result;
  {
    const std::lock_guard lock{shared_->mutex};
    result.swap(shared_->result);
  }
  if (!result) return std::nullopt;
  busy_ = false;
  if (auto file = std::exchange(again_, std::nullopt)) static_cast<void>(begin(*file));
  return result;
}

}  // namespace wireplane
