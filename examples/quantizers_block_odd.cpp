// SPDX-License-Identifier: Apache-2.0
/// The methods on every second block format, apart to compile beside the others.
#include "quantizers_of_blocks.hpp"

namespace example {

std::vector<numbered_format> odd_block_formats() { return numbered_block_formats<1>(); }

}  // namespace example
