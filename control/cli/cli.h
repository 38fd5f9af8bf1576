// cli.h: the command line. `run` is put together elsewhere (control/main.cpp) and passed in; the rest is complete here.
//
//   wireplane run FILE [--name NAME] [--log-level LEVEL] [--foreground]
//   wireplane check FILE [--no-resolve]
//   wireplane show [NAME] [--json]
//   wireplane genkey | genpsk | pubkey
//
// Answers: 0 it is done, 1 it failed, 2 it was asked wrongly. Results go to `out`, complaints to `err`.
#pragma once
#include <functional>
#include <iosfwd>
#include <iostream>
#include <string>

#include "control/log.h"
#include "control/uapi_socket.h"

namespace wireplane {

constexpr int kExitDone = 0, kExitFailed = 1, kExitUsage = 2;

struct RunOptions {
  std::string file;
  std::string name;  // of the interface and of the socket; by default the file's, without directory and ".conf"
  LogLevel log_level = LogLevel::kInfo;
  bool foreground = true;  // there is no other way yet: a service manager watches a process that stays
};

struct Commands {
  std::function<int(const RunOptions&)> run;
  std::string socket_directory = kUapiDirectory;
  std::istream* in = &std::cin;
  std::ostream* out = &std::cout;
  std::ostream* err = &std::cerr;
};

[[nodiscard]] int cli_main(int argc, const char* const* argv, const Commands& commands);

// "/etc/wireguard/wg0.conf" -> "wg0"; empty: no name that an interface could have.
[[nodiscard]] std::string name_of_file(const std::string& path);
[[nodiscard]] bool valid_name(std::string_view name);  // as wg-quick: 1 to 15 of a-z A-Z 0-9 _ = + . -

int check_command(const std::string& file, bool resolve, std::ostream& out, std::ostream& err);
int show_command(const std::string& name, bool json, const Commands& commands);  // empty name: all devices
int key_command(std::string_view which, const Commands& commands);

}  // namespace wireplane
