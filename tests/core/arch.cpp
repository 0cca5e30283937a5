// SPDX-License-Identifier: Apache-2.0
#include "subbyte/core/arch.hpp"

#include <string_view>
#include <type_traits>

#include "support/archs.hpp"
#include "support/catch.hpp"

using namespace subbyte;

namespace {

// The order of fallback: bases are reached by following ::base, and by inheritance alike.
template <class Arch, class Base>
constexpr bool falls_back_to =
    std::is_same_v<typename Arch::base, Base>&& std::is_base_of_v<Base, Arch>;

static_assert(std::is_void_v<arch::scalar::base> && arch::scalar::enabled);
static_assert(falls_back_to<arch::avx2, arch::scalar> && falls_back_to<arch::avx_vnni, arch::avx2>);
static_assert(falls_back_to<arch::avx512, arch::avx2>);
static_assert(falls_back_to<arch::avx512_vnni, arch::avx512>);
static_assert(falls_back_to<arch::avx512_bf16, arch::avx512_vnni>);
static_assert(falls_back_to<arch::amx, arch::avx512_bf16>);
static_assert(falls_back_to<arch::neon, arch::scalar> && falls_back_to<arch::neon_dot, arch::neon>);
static_assert(falls_back_to<arch::neon_i8mm, arch::neon_dot>);

// What the compiler says about this unit's flags, without the header's macros.
#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
using best = arch::amx;
#elif defined(__AVX512BF16__) && defined(__AVX512VNNI__)
using best = arch::avx512_bf16;
#elif defined(__AVX512VNNI__)
using best = arch::avx512_vnni;
#elif defined(__AVX512F__)
using best = arch::avx512;
#elif defined(__AVXVNNI__)
using best = arch::avx_vnni;
#elif defined(__AVX2__)
using best = arch::avx2;
#elif defined(__ARM_FEATURE_MATMUL_INT8)
using best = arch::neon_i8mm;
#elif defined(__ARM_FEATURE_DOTPROD)
using best = arch::neon_dot;
#elif defined(__ARM_NEON)
using best = arch::neon;
#else
using best = arch::scalar;
#endif

template <bool Enabled, int Value>
struct candidate {
  static constexpr bool enabled = Enabled;
};
template <bool... Enabled>
struct chosen;
template <bool A, bool B, bool C>
struct chosen<A, B, C> {
  using type =
      typename arch::detail::first_enabled<candidate<A, 0>, candidate<B, 1>, candidate<C, 2>>::type;
};
static_assert(std::is_same_v<chosen<true, true, true>::type, candidate<true, 0>>);
static_assert(std::is_same_v<chosen<false, true, true>::type, candidate<true, 1>>);
static_assert(std::is_same_v<chosen<false, false, true>::type, candidate<true, 2>>);
static_assert(std::is_same_v<chosen<true, false, false>::type, candidate<true, 0>>);

}  // namespace

TEST_CASE("arch: native is the best cluster that the compiler's own macros show") {
  STATIC_REQUIRE(arch::native::enabled);
  CHECK(std::string_view(arch::native::name) == best::name);
  CHECK(std::is_same_v<arch::native, best>);
}

TEST_CASE("arch: an enabled cluster has its bases enabled, and names are their own") {
  std::string_view seen[test_support::all_archs::size];
  index_t count = 0;
  for_each_type(test_support::all_archs{}, [&]<class Arch>(std::type_identity<Arch>) {
    if constexpr (!std::is_void_v<typename Arch::base>) {
      CHECK((!Arch::enabled || Arch::base::enabled));
    }
    for (index_t i = 0; i < count; ++i) CHECK(seen[i] != Arch::name);
    seen[count++] = Arch::name;
  });
  CHECK(std::string_view(arch::scalar::name) == "scalar");
  CHECK(std::string_view(arch::avx512_vnni::name) == "avx512_vnni");
  CHECK(std::string_view(arch::neon_i8mm::name) == "neon_i8mm");
}
