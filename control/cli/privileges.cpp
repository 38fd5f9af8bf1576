#include "control/cli/privileges.h"

#include <cap-ng.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace wireplane {

Status drop_privileges(const std::string& user, const std::vector<int>& keep) {
  if (capng_get_caps_process() != 0) return Error{"cannot read our own capabilities", errno};
  if (user.empty() && capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE) return Nothing{};
  std::vector<int> kept;  // what we do not have cannot be kept
  for (const int one : keep)
    if (capng_have_capability(CAPNG_PERMITTED, static_cast<unsigned>(one)) != 0) kept.push_back(one);
  capng_clear(CAPNG_SELECT_BOTH);
  const auto both = static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED);
  capng_updatev(CAPNG_ADD, both, CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, -1);
  for (const int one : kept) capng_update(CAPNG_ADD, both, static_cast<unsigned>(one));
  if (user.empty()) {
    if (const int failed = capng_apply(CAPNG_SELECT_BOTH); failed != 0) {
      // Without CAP_SETPCAP the bounding set stays; what we hold ourselves can always be given up.
      if (capng_apply(CAPNG_SELECT_CAPS) != 0) return Error{"cannot drop capabilities", EPERM};
    }
  } else {
    const passwd* account = ::getpwnam(user.c_str());
    if (account == nullptr) return Error{"[Engine] User: there is no account \"" + user + "\"", ENOENT};
    const auto flags = static_cast<capng_flags_t>(CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING);
    if (const int failed = capng_change_id(static_cast<int>(account->pw_uid), static_cast<int>(account->pw_gid), flags);
        failed != 0)
      return Error{"cannot become user \"" + user + "\" (libcap-ng " + std::to_string(failed) + ")", EPERM};
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return Error{std::string{"PR_SET_NO_NEW_PRIVS: "} + std::strerror(errno), errno};
  return Nothing{};
}

void forbid_core_dumps() {
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
}

}  // namespace wireplane
