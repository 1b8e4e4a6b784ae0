# Headers and a CMake package; with pip they land in the Python package's folder.
include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

set(_package_dir share/cmake/terrazzo)
install(DIRECTORY include/ DESTINATION include COMPONENT headers
  FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh" PATTERN "*.def" PATTERN "*.inc")
install(TARGETS terrazzo_headers EXPORT terrazzoTargets COMPONENT cmake)
install(EXPORT terrazzoTargets NAMESPACE terrazzo:: DESTINATION ${_package_dir} COMPONENT cmake)

configure_package_config_file(cmake/terrazzoConfig.cmake.in terrazzoConfig.cmake
  INSTALL_DESTINATION ${_package_dir})
write_basic_package_version_file(terrazzoConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/terrazzoConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/terrazzoConfigVersion.cmake
  DESTINATION ${_package_dir} COMPONENT cmake)
