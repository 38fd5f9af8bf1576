#include "control/cli/cli.h"

#include <sodium.h>

#include <CLI/CLI.hpp>
#include <istream>
#include <map>
#include <ostream>

#include "control/config.h"
#include "control/noise/base64.h"

namespace wireplane {
namespace {

constexpr const char* kAbout = "wireplane: WireGuard for relays and supernodes, in userspace";
constexpr const char* kFooter =
    "Files are wg-quick's format with a section [Engine] of ours. A running device is managed with wg(8):\n"
    "wg show NAME, wg set NAME ..., wg syncconf NAME <(wg-quick strip FILE). SIGHUP reloads the file.";

void say(std::ostream& to, const std::vector<ConfigError>& errors, std::string_view prefix) {
  for (const ConfigError& error : errors) to << prefix << error.text() << '\n';
}

}  // namespace

bool valid_name(std::string_view name) {
  return !name.empty() && name.size() <= 15 && name != "." && name != ".." &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_=+.-") == name.npos;
}

std::string name_of_file(const std::string& path) {
  std::string name = path.substr(path.rfind('/') + 1);
  if (name.ends_with(".conf")) name.resize(name.size() - 5);
  return valid_name(name) ? name : std::string{};
}

int check_command(const std::string& file, bool resolve, std::ostream& out, std::ostream& err) {
  const auto config = load_config(file, resolve ? resolve_by_host : resolve_never);
  if (!config) {
    say(err, config.error(), "");
    if (config.error().size() >= kMostErrors) err << file << ": there may be more errors\n";
    return kExitFailed;
  }
  say(err, config->warnings, "warning: ");
  std::size_t prefixes = 0;
  for (const PeerChange& peer : config->device.peers) prefixes += peer.allowed_ips.size();
  out << file << ": ok: " << config->device.peers.size() << " peers with " << prefixes << " allowed IPs, port ";
  if (const auto port = config->device.listen_port.value_or(0); port != 0) {
    out << port;
  } else {
    out << "any";
  }
  out << ", outer " << config->engine.outer << ", inner " << config->engine.inner << '\n';
  return kExitDone;
}

int key_command(std::string_view which, const Commands& commands) {
  if (sodium_init() < 0) return kExitFailed;
  if (which == "pubkey") {
    SecretText line(64, '\0');
    commands.in->getline(line.data(), static_cast<std::streamsize>(line.size()));
    const auto secret = secret_key_from_base64(std::string_view{line.c_str()});
    if (!secret) {
      *commands.err << "wireplane pubkey: expected a private key on standard input: 44 letters of base64\n";
      return kExitFailed;
    }
    PublicKey key;
    static_cast<void>(crypto_scalarmult_base(key.octets.data(), secret->expose().data()));  // cannot fail
    *commands.out << to_base64(key).view() << '\n';
    return kExitDone;
  }
  SecretKey key;
  randombytes_buf(key.fill().data(), key.fill().size());
  if (which == "genkey") {  // clamped, as wg genkey does
    key.fill()[0] &= 248;
    key.fill()[31] = static_cast<std::uint8_t>((key.fill()[31] & 127) | 64);
  }
  *commands.out << to_base64(key).view() << '\n';
  return kExitDone;
}

int cli_main(int argc, const char* const* argv, const Commands& commands) {
  CLI::App app{kAbout, "wireplane"};
  app.footer(kFooter);
  app.set_version_flag("--version", std::string{"wireplane "} + WIREPLANE_VERSION);
  app.require_subcommand(1);

  RunOptions run;
  const std::map<std::string, LogLevel> levels{{"debug", LogLevel::kDebug},
                                               {"info", LogLevel::kInfo},
                                               {"warning", LogLevel::kWarning},
                                               {"error", LogLevel::kError}};
  CLI::App* run_app = app.add_subcommand("run", "Run a device as its file says, until SIGTERM or SIGINT");
  run_app->add_option("FILE", run.file, "Configuration file")->required();
  run_app->add_option("--name", run.name, "Name of the interface and of its socket (the file's name by default)");
  std::string level = "info";
  run_app->add_option("--log-level", level, "debug, info, warning or error")
      ->check(CLI::IsMember(std::vector<std::string>{"debug", "info", "warning", "error"}));
  run_app->add_flag("-f,--foreground", run.foreground,
                    "Stay in the foreground, as it does anyway: accepted for wireguard-go's habits");

  std::string file;
  bool no_resolve = false;
  CLI::App* check_app = app.add_subcommand("check", "Read a file as `run` would, and say what is wrong with it");
  check_app->add_option("FILE", file, "Configuration file")->required();
  check_app->add_flag("--no-resolve", no_resolve, "Do not look up the names of endpoints");

  std::string name;
  bool json = false;
  CLI::App* show_app = app.add_subcommand("show", "Show running devices: peers, drops by reason, load, tables");
  show_app->add_option("NAME", name, "Device (all by default)");
  show_app->add_flag("--json", json, "One JSON document");

  app.add_subcommand("genkey", "Print a new private key");
  app.add_subcommand("genpsk", "Print a new preshared key");
  app.add_subcommand("pubkey", "Read a private key, print its public key");

  try {
    app.parse(argc, const_cast<char**>(argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error, *commands.out, *commands.err) == 0 ? kExitDone : kExitUsage;
  }
  if (check_app->parsed()) return check_command(file, !no_resolve, *commands.out, *commands.err);
  if (show_app->parsed()) return show_command(name, json, commands);
  if (!run_app->parsed()) return key_command(app.get_subcommands().front()->get_name(), commands);

  if (run.name.empty()) run.name = name_of_file(run.file);
  if (!valid_name(run.name)) {
    *commands.err
        << "wireplane run: expected --name NAME of 1 to 15 letters, digits or _=+.-, which an interface can have\n";
    return kExitUsage;
  }
  run.log_level = levels.at(level);
  return commands.run ? commands.run(run) : kExitFailed;
}

}  // namespace wireplane
