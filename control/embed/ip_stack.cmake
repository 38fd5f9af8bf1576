# TCP and UDP over a node: a library of its own (libwireplane-ip.so), so that lwIP, which is one for a whole process, is
# in those processes alone that want it. The tests link the same objects statically, as they do the rest.
set(WIREPLANE_LWIP_SOURCE "" CACHE PATH "lwIP's source tree (2.1), compiled in with windows of 1 MiB; empty: the packaged library")
if(WIREPLANE_LWIP_SOURCE)
  file(GLOB lwip_sources ${WIREPLANE_LWIP_SOURCE}/src/core/*.c ${WIREPLANE_LWIP_SOURCE}/src/core/ipv4/*.c
    ${WIREPLANE_LWIP_SOURCE}/src/core/ipv6/*.c)
  add_library(wireplane_lwip STATIC ${lwip_sources})
  target_include_directories(wireplane_lwip SYSTEM PUBLIC ${WIREPLANE_LWIP_SOURCE}/src/include ${CMAKE_CURRENT_LIST_DIR}/ip_stack_lwip)
  if(WIREPLANE_SANITIZE)
    target_compile_options(wireplane_lwip PRIVATE -fsanitize=${WIREPLANE_SANITIZE} -fno-sanitize=alignment -fno-omit-frame-pointer)
  endif()
  set(lwip wireplane_lwip)
else()
  pkg_check_modules(LWIP REQUIRED IMPORTED_TARGET lwip)
  set(lwip PkgConfig::LWIP)
endif()

file(GLOB ip_stack_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/ip_stack*.cpp)
add_library(wireplane_ip STATIC ${ip_stack_sources})
target_link_libraries(wireplane_ip PUBLIC wireplane_flags wireplane_control PRIVATE ${lwip})
target_include_directories(wireplane_ip PRIVATE ${CMAKE_CURRENT_LIST_DIR})   # wireplane_ip.h includes <wireplane.h>, as installed

add_library(wireplane_ip_shared SHARED $<TARGET_OBJECTS:wireplane_ip>)
target_link_options(wireplane_ip_shared PRIVATE LINKER:--as-needed)
target_link_libraries(wireplane_ip_shared PUBLIC wireplane_shared PRIVATE wireplane_dataplane ${lwip})
set_target_properties(wireplane_ip_shared PROPERTIES OUTPUT_NAME wireplane-ip VERSION ${PROJECT_VERSION} SOVERSION 0
  LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/ip_stack.map)
target_link_options(wireplane_ip_shared PRIVATE "LINKER:--version-script=${CMAKE_CURRENT_LIST_DIR}/ip_stack.map")
if(NOT WIREPLANE_FUZZ) # clang's sanitizers are in the program alone
  target_link_options(wireplane_ip_shared PRIVATE LINKER:--no-undefined)
endif()

# Installed beside libwireplane (package.cmake): `pkg-config wireplane-ip`.
install(TARGETS wireplane_ip_shared LIBRARY COMPONENT embed NAMELINK_COMPONENT embed)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/wireplane_ip.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/wireplane COMPONENT embed)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/ip_stack.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/wireplane/control/embed COMPONENT embed)
configure_file(${CMAKE_CURRENT_LIST_DIR}/ip_stack.pc.in ${CMAKE_CURRENT_BINARY_DIR}/wireplane-ip.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/wireplane-ip.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT embed)
