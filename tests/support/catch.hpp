// SPDX-License-Identifier: Apache-2.0
/// Catch2, version 2 or 3, under one include; every test file includes this and nothing else of it.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;  // version 2 declares it globally
#else
#include <catch2/catch.hpp>
#endif
