// SPDX-License-Identifier: Apache-2.0
/// The cases of every format on an emulated device.
#include "cuda/cases.hpp"
