# What an application needs to use the library: the library, its headers, and files for pkg-config and CMake.
#   cmake --install BUILD --component embed --prefix WHERE
set(embed ${CMAKE_CURRENT_LIST_DIR})
target_link_options(wireplane_shared PRIVATE "LINKER:--version-script=${embed}/wireplane.map")
set_target_properties(wireplane_shared PROPERTIES LINK_DEPENDS ${embed}/wireplane.map)

install(TARGETS wireplane_shared LIBRARY COMPONENT embed NAMELINK_COMPONENT embed)
install(FILES ${embed}/wireplane.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/wireplane COMPONENT embed)
foreach(header   # node.h and what it includes
    control/embed/node.h control/embed/node_address.h control/embed/stream.h control/configuration.h control/address_text.h
    control/noise/base64.h dataplane/base/check.h dataplane/base/drops.h dataplane/base/endpoint.h
    dataplane/base/forward.h dataplane/base/result.h dataplane/base/secret.h dataplane/base/time.h
    dataplane/base/types.h)
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/wireplane/${folder} COMPONENT embed)
endforeach()

file(RELATIVE_PATH to_prefix /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
configure_file(${embed}/wireplane.pc.in ${CMAKE_CURRENT_BINARY_DIR}/wireplane.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/wireplane.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT embed)
include(CMakePackageConfigHelpers)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/wireplane)
configure_package_config_file(${embed}/wireplaneConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/wireplaneConfig.cmake
  INSTALL_DESTINATION ${package} PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/wireplaneConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/wireplaneConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/wireplaneConfigVersion.cmake
  DESTINATION ${package} COMPONENT embed)
