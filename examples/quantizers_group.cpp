// SPDX-License-Identifier: Apache-2.0
/// The methods on formats with groups of any size.
#include "quantizers_of.hpp"

namespace example {

const std::vector<target_format>& group_target_formats() {
  using subbyte::int_grid;
  using subbyte::zero_points;
  static const std::vector<target_format> formats = {
      grouped<int_grid<2>>("int2"),
      grouped<int_grid<3>>("int3"),
      grouped<int_grid<4>>("int4"),
      grouped<int_grid<4, zero_points::none>>("int4s"),
      grouped<int_grid<2, zero_points::real>>("int2r"),
      grouped<int_grid<3, zero_points::real>>("int3r"),
      grouped<int_grid<4, zero_points::real>>("int4r"),
      grouped<subbyte::codebook_grid<subbyte::nf4>>("nf4"),
  };
  return formats;
}

}  // namespace example
