// SPDX-License-Identifier: Apache-2.0
/// Blocks of each format that hold encoded random weights: what big matrices are tiled with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bench {

/// A row of encoded weights.
struct encoded_row {
  /// The row's scale, of formats whose rows begin with one.
  std::vector<std::uint8_t> header;
  std::vector<std::uint8_t> blocks;
};

/// A row of 16384 normal deviates in the format of the registry with this name.
///
/// Throws  std::invalid_argument for other names.
encoded_row encode_random_row(const std::string& format);

}  // namespace bench
