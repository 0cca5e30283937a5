// SPDX-License-Identifier: Apache-2.0
/// The cases of every format on a device.
#include "cuda/cases.hpp"
