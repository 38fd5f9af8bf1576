// privileges.h: what the daemon gives up once its devices are open.
#pragma once
#include <string>
#include <vector>

#include "dataplane/base/result.h"

namespace wireplane {

// Becomes `user` (empty: stays who it is) and keeps CAP_NET_ADMIN (addresses, routes, marks on reload) and
// CAP_NET_BIND_SERVICE (a low port by `wg set`); drops every other capability, the bounding set's too, and may gain
// none again. `keep`: others that stay, if we have them (a device port's, to open its device anew). Before threads
// start. Without any capability to begin with there is nothing to drop: success.
Status drop_privileges(const std::string& user, const std::vector<int>& keep = {});

// No core dump of ours may hold keys.
void forbid_core_dumps();

}  // namespace wireplane
