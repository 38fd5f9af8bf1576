// uapi_client.h: asks a running device over its socket, and hands over what it says line by line. Waits, with a limit.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/base/result.h"

namespace wireplane {

// Calls `line` for each line of the reply but the last, errno's; a value may be a key, so it is gone when `line`
// returns.
[[nodiscard]] Status ask_device(const std::string& socket_path, std::string_view request,
                                const std::function<void(std::string_view line)>& line);
[[nodiscard]] std::vector<std::string> device_names(const std::string& directory);  // of all sockets there, sorted

}  // namespace wireplane
