// main.cpp: the program `wireplane`. The command line is in cli/cli.h, the daemon in cli/daemon.h.
#include "control/cli/cli.h"
#include "control/cli/daemon.h"

int main(int argc, char** argv) {
  wireplane::Commands commands;
  commands.run = wireplane::run_daemon;
  return wireplane::cli_main(argc, argv, commands);
}
