// Giving up privileges: what is kept, what is refused, and that nothing is half done when the system refuses.
//
// This program's own functions stand before libcap-ng's, prctl() and getpwnam(): a process can give up its privileges
// only once. (What really happens to a daemon's capabilities faults_daemon_test and interop look at.)
#include "control/cli/privileges.h"

#include <cap-ng.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdarg>
#include <set>

namespace wireplane {
namespace {

struct System {  // what it has, what it refuses, and what it was asked
  bool unreadable = false, has_some = true, no_new_privileges_refused = false;
  std::set<unsigned> permitted;
  int apply_both = 0, apply_own = 0, change = 0;
  std::set<unsigned> asked_for;
  std::vector<capng_select_t> applied;
  int became = -1;
  bool no_new_privileges = false;
};
System* the_system = nullptr;
passwd account{};

}  // namespace
}  // namespace wireplane

using wireplane::the_system;
extern "C" int capng_get_caps_process(void) { return the_system->unreadable ? -1 : 0; }
extern "C" capng_results_t capng_have_capabilities(capng_select_t) {
  return the_system->has_some ? CAPNG_PARTIAL : CAPNG_NONE;
}
extern "C" int capng_have_capability(capng_type_t, unsigned capability) {
  return the_system->permitted.contains(capability) ? 1 : 0;
}
extern "C" void capng_clear(capng_select_t) { the_system->asked_for.clear(); }
extern "C" int capng_update(capng_act_t, capng_type_t, unsigned capability) {
  the_system->asked_for.insert(capability);
  return 0;
}
extern "C" int capng_updatev(capng_act_t, capng_type_t, unsigned capability, ...) {
  va_list more;
  va_start(more, capability);
  for (unsigned one = capability; one != static_cast<unsigned>(-1); one = va_arg(more, unsigned))
    the_system->asked_for.insert(one);
  va_end(more);
  return 0;
}
extern "C" int capng_apply(capng_select_t which) {
  the_system->applied.push_back(which);
  return which == CAPNG_SELECT_BOTH ? the_system->apply_both : the_system->apply_own;
}
extern "C" int capng_change_id(int user, int, capng_flags_t) {
  the_system->became = user;
  return the_system->change;
}
extern "C" int prctl(int what, ...) noexcept {
  if (what != PR_SET_NO_NEW_PRIVS) return 0;
  if (the_system->no_new_privileges_refused) return errno = EPERM, -1;
  the_system->no_new_privileges = true;
  return 0;
}
extern "C" passwd* getpwnam(const char* name) {
  wireplane::account.pw_uid = 1234;
  return std::string_view{name} == "somebody" ? &wireplane::account : nullptr;
}

namespace wireplane {
namespace {

class Privileges : public testing::Test {
 protected:
  void SetUp() override { the_system = &system; }
  System system;
};

// Goal: what the ports need later is kept, if we have it; all else goes; the process cannot get it back.
TEST_F(Privileges, OnlyWhatIsNeededIsKept) {
  system.permitted = {CAP_SYS_RAWIO, CAP_NET_ADMIN};
  EXPECT_TRUE(drop_privileges("", {CAP_SYS_RAWIO, CAP_IPC_LOCK}));
  EXPECT_EQ(system.asked_for, (std::set<unsigned>{CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_SYS_RAWIO}));
  EXPECT_EQ(system.applied, std::vector{CAPNG_SELECT_BOTH});
  EXPECT_EQ(system.became, -1);
  EXPECT_TRUE(system.no_new_privileges);
}

// Goal: who has none and wants no other user is left alone; who cannot ask is refused.
TEST_F(Privileges, NothingToGiveUp) {
  system.has_some = false;
  EXPECT_TRUE(drop_privileges("", {}));
  EXPECT_TRUE(system.applied.empty());
  EXPECT_TRUE(drop_privileges("somebody", {}));
  EXPECT_EQ(system.became, 1234);
  system.unreadable = true;
  EXPECT_EQ(drop_privileges("", {}).error().what, "cannot read our own capabilities");
}

// Goal: without CAP_SETPCAP the bounding set stays, what we hold goes; where that is refused, too, we do not start.
TEST_F(Privileges, WithoutSetpcapOurOwnAreGivenUp) {
  system.apply_both = -1;
  EXPECT_TRUE(drop_privileges("", {}));
  EXPECT_EQ(system.applied, (std::vector{CAPNG_SELECT_BOTH, CAPNG_SELECT_CAPS}));
  system.apply_own = -1;
  EXPECT_EQ(drop_privileges("", {}).error().what, "cannot drop capabilities");
}

// Goal: another user, or a refusal with the user's name.
TEST_F(Privileges, AnotherUserOrARefusal) {
  EXPECT_TRUE(drop_privileges("somebody", {}));
  EXPECT_EQ(system.became, 1234);
  EXPECT_EQ(drop_privileges("nobody here", {}).error().what, "[Engine] User: there is no account \"nobody here\"");
  system.change = -4;
  EXPECT_EQ(drop_privileges("somebody", {}).error().what, "cannot become user \"somebody\" (libcap-ng -4)");
  system.change = 0;
  system.no_new_privileges_refused = true;
  EXPECT_EQ(drop_privileges("somebody", {}).error().code, EPERM);
}

// Goal: keys do not reach a core file.
TEST_F(Privileges, NoCoreDumps) {
  forbid_core_dumps();
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_CORE, &limit), 0);
  EXPECT_EQ(limit.rlim_cur, 0u);
  EXPECT_EQ(limit.rlim_max, 0u);
}

}  // namespace
}  // namespace wireplane
