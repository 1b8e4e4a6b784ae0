# terrazzo_build_options: what every target compiled here shares. Not exported: a consumer of the
# headers chooses its own warnings and flags.
include_guard(GLOBAL)

add_library(terrazzo_build_options INTERFACE)
target_compile_features(terrazzo_build_options INTERFACE cxx_std_20)
target_compile_options(terrazzo_build_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>
  # Fibers leave stack frames by longjmp in ways that glibc's fortified version takes for an attack.
  $<$<COMPILE_LANGUAGE:CXX>:-U_FORTIFY_SOURCE>
  # Bits must not depend on the vector width chosen at run time: an fma is written as one.
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

if(TERRAZZO_CUDA_ENABLED)
  target_compile_features(terrazzo_build_options INTERFACE cuda_std_20)
  target_compile_options(terrazzo_build_options INTERFACE
    $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo>
    # Device code calls the constexpr functions of core/.
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
endif()

# Before version 13, GCC warns of an overlap inside std::string that cannot be (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(terrazzo_build_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(TERRAZZO_WERROR)
  target_compile_options(terrazzo_build_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(TERRAZZO_DEBUG_CHECKS)
  target_compile_definitions(terrazzo_build_options INTERFACE TERRAZZO_DEBUG_CHECKS=1)
endif()

if(TERRAZZO_SANITIZE STREQUAL "address")
  set(_sanitize -fsanitize=address,undefined -fno-sanitize-recover=undefined)
elseif(TERRAZZO_SANITIZE STREQUAL "thread")
  set(_sanitize -fsanitize=thread)
elseif(NOT TERRAZZO_SANITIZE STREQUAL "")
  message(FATAL_ERROR
    "terrazzo: TERRAZZO_SANITIZE is '${TERRAZZO_SANITIZE}', expected address, thread or nothing")
endif()
if(DEFINED _sanitize)
  if(TERRAZZO_BUILD_PYTHON)
    message(FATAL_ERROR "terrazzo: a sanitizer needs TERRAZZO_BUILD_PYTHON=OFF, because the "
      "interpreter that would load the extension is not instrumented")
  endif()
  target_compile_options(terrazzo_build_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:${_sanitize};-fno-omit-frame-pointer>)
  target_link_options(terrazzo_build_options INTERFACE ${_sanitize})
endif()
