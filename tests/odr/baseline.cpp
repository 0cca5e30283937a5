// SPDX-License-Identifier: Apache-2.0
#include "exercise.hpp"

std::uint64_t exercise_baseline() { return exercise("baseline"); }
