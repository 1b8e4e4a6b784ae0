// The version; the build system and the Python package read it from here.
#pragma once

#define TERRAZZO_VERSION_MAJOR 0
#define TERRAZZO_VERSION_MINOR 1
#define TERRAZZO_VERSION_PATCH 0

namespace terrazzo {

inline constexpr int kVersionMajor = TERRAZZO_VERSION_MAJOR;
inline constexpr int kVersionMinor = TERRAZZO_VERSION_MINOR;
inline constexpr int kVersionPatch = TERRAZZO_VERSION_PATCH;

}  // namespace terrazzo
