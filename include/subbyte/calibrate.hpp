// SPDX-License-Identifier: Apache-2.0
/// The component calibrate: statistics of activations and what quantizes by them. Includes core;
/// Eigen is inside.
#pragma once

#include "subbyte/calibrate/autoround.hpp"
#include "subbyte/calibrate/awq.hpp"
#include "subbyte/calibrate/cholesky.hpp"
#include "subbyte/calibrate/fold.hpp"
#include "subbyte/calibrate/gptq.hpp"
#include "subbyte/calibrate/hadamard.hpp"
#include "subbyte/calibrate/layer_loss.hpp"
#include "subbyte/calibrate/plan.hpp"
#include "subbyte/calibrate/smoothquant.hpp"
#include "subbyte/calibrate/statistics.hpp"
#include "subbyte/subbyte.hpp"
