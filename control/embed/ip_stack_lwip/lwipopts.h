// lwipopts.h: lwIP's options where its source is compiled in (WIREPLANE_LWIP_SOURCE), for using it without threads,
// link layer or forwarding; windows of a megabyte, which carry 160 Mbit/s over a path of 50 ms.
#pragma once

#define NO_SYS 1
#define LWIP_TIMERS 0  // ip_stack.cpp keeps time
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_STATS 0

#define MEM_LIBC_MALLOC 1
#define MEMP_MEM_MALLOC 1
#define MEM_ALIGNMENT 8
#define LWIP_NETIF_TX_SINGLE_PBUF 1

#define LWIP_IPV4 1
#define LWIP_IPV6 1
#define LWIP_IPV6_NUM_ADDRESSES 6
#define IPV6_FRAG_COPYHEADER 1  // pointers are larger than what lwIP overlays with them
#define LWIP_ARP 0
#define LWIP_ETHERNET 0
#define LWIP_DHCP 0
#define LWIP_AUTOIP 0
#define LWIP_DNS 0
#define LWIP_IGMP 0
#define LWIP_RAW 0
#define IP_FORWARD 0
#define LWIP_IPV6_MLD 0
#define LWIP_IPV6_FORWARD 0
#define LWIP_IPV6_AUTOCONFIG 0
#define LWIP_IPV6_SEND_ROUTER_SOLICIT 0
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 0

#define TCP_MSS 1460
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 4
#define TCP_WND (0xffff << TCP_RCV_SCALE)
#define TCP_SND_BUF (1 << 20)
#define TCP_SNDLOWAT 32768
#define LWIP_TCP_SACK_OUT 1
#define LWIP_CHECKSUM_ON_COPY 1
#define SO_REUSE 1
