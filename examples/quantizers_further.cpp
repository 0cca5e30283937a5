// SPDX-License-Identifier: Apache-2.0
/// The methods on further integers in groups, apart to compile beside the others.
#include "quantizers_of.hpp"

namespace example {

const std::vector<target_format>& further_group_target_formats() {
  using subbyte::int_grid;
  using subbyte::zero_points;
  static const std::vector<target_format> formats = {
      grouped<int_grid<2, zero_points::none>>("int2s"),
      grouped<int_grid<3, zero_points::none>>("int3s"),
      grouped<int_grid<8>>("int8"),
      grouped<int_grid<8, zero_points::none>>("int8s"),
  };
  return formats;
}

}  // namespace example
