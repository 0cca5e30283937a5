// SPDX-License-Identifier: Apache-2.0
/// Every packing layout, for tests and documentation to walk.
#pragma once

#include "subbyte/core/type_list.hpp"
#include "subbyte/layout/awq_int32.hpp"
#include "subbyte/layout/compressed_tensors.hpp"
#include "subbyte/layout/exllama.hpp"
#include "subbyte/layout/gptq_int32.hpp"
#include "subbyte/layout/marlin.hpp"
#include "subbyte/layout/matmul_nbits.hpp"
#include "subbyte/layout/tinygemm.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Every layout and width. awq_gemv_zeros and matmul_nbits stand with one of their parameters each:
/// the others differ in the padding only.
using all_layouts = type_list<
    gptq_int32<1>, gptq_int32<2>, gptq_int32<3>, gptq_int32<4>, gptq_int32<5>, gptq_int32<6>,
    gptq_int32<7>, gptq_int32<8>, gptq_int32_zeros<1>, gptq_int32_zeros<2>, gptq_int32_zeros<3>,
    gptq_int32_zeros<4>, gptq_int32_zeros<5>, gptq_int32_zeros<6>, gptq_int32_zeros<7>,
    gptq_int32_zeros<8>, gptq_planar<1>, gptq_planar<2>, gptq_planar<3>, gptq_planar<4>,
    gptq_planar<5>, gptq_planar<6>, gptq_planar<7>, gptq_planar<8>, gptq_planar_zeros<2>,
    gptq_planar_zeros<3>, gptq_planar_zeros<4>, gptq_planar_zeros<5>, gptq_planar_zeros<6>,
    gptq_planar_zeros<7>, gptq_planar_zeros<8>, awq_gemm<2>, awq_gemm<3>, awq_gemm<4>, awq_gemm<5>,
    awq_gemm<6>, awq_gemm<7>, awq_gemm<8>, awq_gemv, awq_gemv_zeros<1>, awq_gemv_zeros<2>,
    awq_gemv_zeros<4>, awq_gemv_tiled, marlin<4>, marlin<8>, marlin_zeros<4>, marlin_zeros<8>,
    exllama<2>, exllama<3>, exllama<4>, exllama<8>, compressed_tensors<1>, compressed_tensors<2>,
    compressed_tensors<3>, compressed_tensors<4>, compressed_tensors<5>, compressed_tensors<6>,
    compressed_tensors<7>, compressed_tensors<8>, compressed_tensors_padded<1>,
    compressed_tensors_padded<2>, compressed_tensors_padded<3>, compressed_tensors_padded<4>,
    compressed_tensors_padded<5>, compressed_tensors_padded<6>, compressed_tensors_padded<7>,
    compressed_tensors_padded<8>, compressed_tensors_zeros<1>, compressed_tensors_zeros<2>,
    compressed_tensors_zeros<3>, compressed_tensors_zeros<4>, compressed_tensors_zeros<5>,
    compressed_tensors_zeros<6>, compressed_tensors_zeros<7>, compressed_tensors_zeros<8>,
    compressed_tensors_padded_zeros<3>, compressed_tensors_padded_zeros<5>,
    compressed_tensors_padded_zeros<6>, compressed_tensors_padded_zeros<7>, matmul_nbits<2, 16>,
    matmul_nbits<4, 32>, matmul_nbits<8, 64>, matmul_nbits_zeros<2>, matmul_nbits_zeros<4>,
    matmul_nbits_zeros<8>, tinygemm_avx512>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
