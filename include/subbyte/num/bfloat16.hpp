// SPDX-License-Identifier: Apache-2.0
/// bfloat16 as a storage type.
#pragma once

#include "subbyte/num/minifloat.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The upper half of a binary32: 8 significant bits, the same range.
using bfloat16 = minifloat<8, 7, float_specials::ieee>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
