// cc.h: what lwIP asks of a compiler and a host, answered using POSIX.
#pragma once
#include <stdlib.h>
#include <sys/time.h>

#define LWIP_TIMEVAL_PRIVATE 0
#define LWIP_ERRNO_STDINCLUDE 1
#define LWIP_RAND() ((u32_t)random())
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS
#include <arpa/inet.h>
#define lwip_htons(x) htons(x)
#define lwip_htonl(x) htonl(x)
#define LWIP_ERROR(message, expression, handler) \
  do {                                           \
    if (!(expression)) {                         \
      handler;                                   \
    }                                            \
  } while (0)
