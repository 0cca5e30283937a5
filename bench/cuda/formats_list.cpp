// SPDX-License-Identifier: Apache-2.0
/// The formats of all parts of formats.cu, in the order of their bits per weight.
#include <algorithm>

#include "formats_parts.hpp"

namespace bench {

std::vector<std::unique_ptr<stored_format>> stored_formats(const subbyte::cuda::device& on) {
  std::vector<std::unique_ptr<stored_format>> formats;
  for (const format_part part : format_parts()) part(on, formats);
  std::stable_sort(formats.begin(), formats.end(), [](const auto& a, const auto& b) {
    return a->bytes(256, 4096) != b->bytes(256, 4096) ? a->bytes(256, 4096) < b->bytes(256, 4096)
                                                      : a->name() < b->name();
  });
  return formats;
}

}  // namespace bench
