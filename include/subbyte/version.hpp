// SPDX-License-Identifier: Apache-2.0
/// The library's version, the single source that CMake and the package recipes read.
#pragma once

#define SUBBYTE_VERSION_MAJOR 0
#define SUBBYTE_VERSION_MINOR 1
#define SUBBYTE_VERSION_PATCH 0
