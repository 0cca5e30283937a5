// SPDX-License-Identifier: Apache-2.0
/// The formats that a test walks: all of the registry, or those that a build names, so that a test
/// of one of them compiles quickly.
#pragma once

#include <type_traits>

#include "subbyte/format/list.hpp"

namespace test_support {

#if defined(SUBBYTE_TESTED_FORMATS)
using tested_formats = subbyte::type_list<SUBBYTE_TESTED_FORMATS>;
#else
using tested_formats = subbyte::all_formats;
#endif

/// Whether nothing is left out.
inline constexpr bool all_formats_tested = std::is_same_v<tested_formats, subbyte::all_formats>;

}  // namespace test_support
