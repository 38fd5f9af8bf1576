// log_to_stderr.h: the daemon's log: one line an event on standard error, where journald (or a person) reads it.
#pragma once
#include "control/log.h"

namespace wireplane {

// Under systemd (JOURNAL_STREAM) lines carry the journal's priority "<4>" and no time, which the journal knows; else
// UTC.
void log_to_stderr(LogLevel least);

}  // namespace wireplane
