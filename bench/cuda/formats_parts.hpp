// SPDX-License-Identifier: Apache-2.0
/// How the parts of formats.cu come together.
#pragma once

#include "formats.hpp"

namespace bench {

/// Adds a part's formats.
using format_part = void (*)(const subbyte::cuda::device&,
                             std::vector<std::unique_ptr<stored_format>>&);

/// The parts of this program.
inline std::vector<format_part>& format_parts() {
  static std::vector<format_part> parts;
  return parts;
}

/// Called before main by each part.
inline bool list_part(format_part part) {
  format_parts().push_back(part);
  return true;
}

}  // namespace bench
