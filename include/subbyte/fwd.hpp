// SPDX-License-Identifier: Apache-2.0
/// Forward declarations, and the only place for default template arguments of classes.
///
/// Do not forward-declare subbyte's types yourself: they live in an inline namespace.
#pragma once

#include "subbyte/core/arch.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

struct row_major;
struct row_pitched;
struct strided;
template <class T, std::size_t Rank, class Layout = row_major>
class tensor_view;
template <class T, std::size_t Rank>
class tensor;

struct f32;
struct f16;
struct bf16;
struct q4_0;
struct q4_1;
struct q5_0;
struct q5_1;
struct q8_0;
struct q8_1;
struct q2_k;
struct q3_k;
struct q4_k;
struct q5_k;
struct q6_0;
struct q6_k;
struct q8_k;
struct iq1_m;
struct iq1_s;
struct iq2_k;
struct iq2_ks;
struct iq2_s;
struct iq2_xs;
struct iq2_xxs;
struct iq3_k;
struct iq3_ks;
struct iq3_s;
struct iq3_xxs;
struct iq4_k;
struct iq4_ks;
struct iq4_kss;
struct iq4_nl;
struct iq4_xs;
struct iq5_k;
struct iq5_ks;
struct iq6_k;
struct mxfp4;
struct nvfp4;
struct q1_0;
struct q2_0;
struct tq1_0;
struct tq2_0;

template <class F>
class block_matrix_view;
template <class F, class Arch = arch::native>
class block_matrix;
template <class F>
class row_scaled_matrix_view;
template <class F, class Arch = arch::native>
class row_scaled_matrix;
template <class G, class S>
class planar_matrix_view;
template <class G, class S, class Arch = arch::native>
class planar_matrix;
template <class F, class Arch = arch::native>
struct quantized;

template <class Arch = arch::native>
class basic_thread_pool;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
