// config_loader.h: reads the configuration again while control goes on. Names of hosts are resolved there, and a
// resolver may take many seconds; control's loop may not.
//
//   begin() --> a thread of its own: load_config() --> `done` rings --> take()
//
// One file at a time: a wish that comes meanwhile is remembered, once (a hundred SIGHUPs are two reloads). Nobody can
// interrupt a resolver, so the loader's end does not wait for its thread, which then keeps what it has for itself.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "control/config.h"

namespace wireplane {

class ConfigLoader {
 public:
  // `done` is called by the thread, never after the loader's end.
  ConfigLoader(Resolver resolver, std::function<void()> done);
  ~ConfigLoader();
  ConfigLoader(const ConfigLoader&) = delete;
  ConfigLoader& operator=(const ConfigLoader&) = delete;

  Status begin(const std::string& file);             // an error: no thread could be started
  [[nodiscard]] std::optional<ConfigResult> take();  // what has been read; begins again if that was wished meanwhile
  [[nodiscard]] bool busy() const { return busy_; }

 private:
  struct Shared;
  Resolver resolver_;
  std::shared_ptr<Shared> shared_;
  bool busy_ = false;
  std::optional<std::string> again_;
};

}  // namespace wireplane
