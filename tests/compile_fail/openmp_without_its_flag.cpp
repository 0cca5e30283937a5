// SPDX-License-Identifier: Apache-2.0
/// expected: needs the compiler flag -fopenmp
#if defined(WRONG)
#include "subbyte/exec/openmp.hpp"
#elif __has_include(<omp.h>)
#define _OPENMP 201511  // as the compiler does with -fopenmp
#include "subbyte/exec/openmp.hpp"
#endif
