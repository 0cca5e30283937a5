// SPDX-License-Identifier: Apache-2.0
/// The octets of every format.
#pragma once

#include "subbyte/cuda/octet/codebooks.cuh"
#include "subbyte/cuda/octet/floats.cuh"
#include "subbyte/cuda/octet/nibbles.cuh"
#include "subbyte/cuda/octet/points.cuh"
#include "subbyte/cuda/octet/shifted.cuh"
#include "subbyte/cuda/octet/superblocks.cuh"
#include "subbyte/cuda/octet/ternary.cuh"
