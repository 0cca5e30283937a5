// SPDX-License-Identifier: Apache-2.0
/// IEEE binary16 as a storage type.
#pragma once

#include "subbyte/num/minifloat.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IEEE binary16: 11 significant bits, largest value 65504, smallest positive value 2^-24.
using half = minifloat<5, 10, float_specials::ieee>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
