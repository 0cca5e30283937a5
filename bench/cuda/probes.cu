// SPDX-License-Identifier: Apache-2.0
/// The limits of a device, as far as quantized products meet them: reading, writing and copying
/// memory, reading L2, integer and matrix instructions, the gap between the kernels of a graph.
#include <cstdio>
#include <exception>

#include "device_timing.cuh"
#include "machine.hpp"

namespace {

using bench::contender;
using bench::record;
using bench::timed;
using subbyte::index_t;
using subbyte::cuda::device;
using subbyte::cuda::device_bytes;

// ---- memory -----------------------------------------------------------------------------------

constexpr int memory_threads = 256;
constexpr index_t megabyte = index_t{1} << 20;
constexpr int bulk_warps = 4;
constexpr int bulk_words = 128;  // of 16 bytes, of a slot

__device__ __forceinline__ uint4 load_once(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

__device__ __forceinline__ std::uint32_t folded(uint4 v) { return v.x ^ v.y ^ v.z ^ v.w; }

__global__ void fill_kernel(uint4* to, index_t words) {
  const index_t stride = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words;
       i += stride) {
    std::uint32_t h = static_cast<std::uint32_t>(i) * 0x9E3779B9U;
    std::uint32_t v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      h = (h ^ (h >> 15)) * 0x2C1B3C6DU;
      h = (h ^ (h >> 13)) * 0x297A2D39U + 1;
      v[j] = h;
    }
    to[i] = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

/// Reads `words`, `passes` times over; each thread has Loads loads in flight.
template <int Loads>
__global__ void __launch_bounds__(memory_threads)
    read_kernel(const uint4* from, index_t words, int passes, std::uint32_t* sink) {
  constexpr index_t tile = index_t{memory_threads} * Loads;
  std::uint32_t sum = 0;
  for (int pass = 0; pass < passes; ++pass) {
    // Another multiprocessor's tiles in every pass.
    const index_t first = (blockIdx.x + static_cast<index_t>(pass) * 37) % gridDim.x;
    for (index_t t = first * tile; t + tile <= words; t += gridDim.x * tile) {
      uint4 v[Loads];
#pragma unroll
      for (int i = 0; i < Loads; ++i) {
        v[i] = load_once(from + t + i * memory_threads + threadIdx.x);
      }
#pragma unroll
      for (int i = 0; i < Loads; ++i) sum ^= folded(v[i]);
    }
  }
  if (sum == 0x5BD1E995U) *sink = sum;  // so that nothing is dropped
}

/// Reads `words` through a ring of Stages 16-byte slots of shared memory per thread.
template <int Stages>
__global__ void __launch_bounds__(memory_threads)
    read_async_kernel(const uint4* from, index_t words, std::uint32_t* sink) {
  __shared__ uint4 ring[Stages][memory_threads];
  const index_t stride = static_cast<index_t>(gridDim.x) * memory_threads;
  const index_t begin = static_cast<index_t>(blockIdx.x) * memory_threads + threadIdx.x;
  const auto copy = [&](int slot, index_t at) {
    if (at < words) {
      const auto to =
          static_cast<std::uint32_t>(__cvta_generic_to_shared(&ring[slot][threadIdx.x]));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from + at)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
#pragma unroll
  for (int i = 0; i < Stages - 1; ++i) copy(i, begin + i * stride);
  std::uint32_t sum = 0;
  int slot = 0;
  for (index_t at = begin; at < words; at += stride) {
    asm volatile("cp.async.wait_group %0;" ::"n"(Stages - 2) : "memory");
    sum ^= folded(ring[slot][threadIdx.x]);
    copy(slot == 0 ? Stages - 1 : slot - 1, at + (Stages - 1) * stride);
    slot = slot == Stages - 1 ? 0 : slot + 1;
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  if (sum == 0x5BD1E995U) *sink = sum;
}

/// Reads `words` by bulk copies: each warp has a ring of Stages slots of its own, which one lane
/// fills. From compute capability 9.0 on; older devices run nothing.
template <int Stages>
__global__ void __launch_bounds__(bulk_warps * 32)
    read_bulk_kernel(const uint4* from, index_t words, std::uint32_t* sink) {
#if __CUDA_ARCH__ >= 900
  __shared__ alignas(128) uint4 ring[bulk_warps][Stages][bulk_words];
  __shared__ alignas(8) std::uint64_t filled[bulk_warps][Stages];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const auto shared_address = [](const void* p) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
  };
  if (lane == 0) {
    for (int i = 0; i < Stages; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&filled[warp][i]))
                   : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncwarp();
  const index_t tiles = words / bulk_words;
  const index_t stride = static_cast<index_t>(gridDim.x) * bulk_warps;
  const index_t begin = static_cast<index_t>(blockIdx.x) * bulk_warps + warp;
  const auto fill = [&](int slot, index_t tile) {
    if (lane != 0 || tile >= tiles) return;
    const std::uint32_t barrier = shared_address(&filled[warp][slot]);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                 "n"(bulk_words * 16)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_address(&ring[warp][slot][0])),
        "l"(from + tile * bulk_words), "n"(bulk_words * 16), "r"(barrier)
        : "memory");
  };
  for (int i = 0; i < Stages; ++i) fill(i, begin + i * stride);
  std::uint32_t sum = 0;
  int slot = 0;
  std::uint32_t phase = 0;
  for (index_t tile = begin; tile < tiles; tile += stride) {
    std::uint32_t arrived = 0;
    while (arrived == 0) {
      asm volatile(
          "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
          "selp.u32 %0, 1, 0, p; }"
          : "=r"(arrived)
          : "r"(shared_address(&filled[warp][slot])), "r"(phase)
          : "memory");
    }
#pragma unroll
    for (int i = 0; i < bulk_words / 32; ++i) sum ^= folded(ring[warp][slot][i * 32 + lane]);
    __syncwarp();  // all have read what is filled next
    fill(slot, tile + Stages * stride);
    slot = slot == Stages - 1 ? 0 : slot + 1;
    if (slot == 0) phase ^= 1;
  }
  if (sum == 0x5BD1E995U) *sink = sum;
#else
  static_cast<void>(from);
  static_cast<void>(words);
  static_cast<void>(sink);
#endif
}

/// Writes Writes words for each of `words` that it reads; Reads = 0: reads none.
template <int Reads, int Writes>
__global__ void __launch_bounds__(memory_threads)
    write_kernel(const uint4* from, uint4* to, index_t words) {
  constexpr int unrolled = Writes >= 4 ? 1 : 4;
  constexpr index_t tile = index_t{memory_threads} * unrolled;
  for (index_t t = blockIdx.x * tile; t + tile <= words; t += gridDim.x * tile) {
    uint4 v[unrolled];
#pragma unroll
    for (int i = 0; i < unrolled; ++i) {
      const index_t at = t + i * memory_threads + threadIdx.x;
      v[i] = Reads != 0 ? load_once(from + at) : make_uint4(at, threadIdx.x, blockIdx.x, i);
    }
#pragma unroll
    for (int i = 0; i < unrolled; ++i) {
#pragma unroll
      for (int w = 0; w < Writes; ++w) {
        to[(t + i * memory_threads) * Writes + w * memory_threads + threadIdx.x] =
            make_uint4(v[i].x + w, v[i].y, v[i].z, v[i].w);
      }
    }
  }
}

// ---- instructions -----------------------------------------------------------------------------

constexpr int rate_threads = 128;
constexpr int rate_chains = 8;

/// Operands of an instruction that are alike for all its chains, different in every lane.
struct operands {
  std::uint32_t a[4];
  std::uint32_t b[2];
};

// mma.sync, A [16, k] B [k, 8]: 16 * 8 * k multiplications and as many additions per warp.
struct mma_f16 {
  static constexpr const char* name = "mma_f16_f32";
  static constexpr int operations = 2 * 16 * 8 * 16 / 32;
  static constexpr std::uint32_t mask = 0x3BFF3BFFU;  // finite, below 1
  using value = float;
  static constexpr int values = 4;
  __device__ __forceinline__ static void step(float (&d)[4], const operands& o) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(o.a[0]), "r"(o.a[1]), "r"(o.a[2]), "r"(o.a[3]), "r"(o.b[0]), "r"(o.b[1]));
  }
};

struct mma_bf16 : mma_f16 {
  static constexpr const char* name = "mma_bf16_f32";
  static constexpr std::uint32_t mask = 0x3F7F3F7FU;
  __device__ __forceinline__ static void step(float (&d)[4], const operands& o) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(o.a[0]), "r"(o.a[1]), "r"(o.a[2]), "r"(o.a[3]), "r"(o.b[0]), "r"(o.b[1]));
  }
};

struct mma_f16_f16 : mma_f16 {
  static constexpr const char* name = "mma_f16_f16";
  static constexpr std::uint32_t mask = 0x1BFF1BFFU;  // small: sums in half stay finite
  using value = std::uint32_t;
  static constexpr int values = 2;
  __device__ __forceinline__ static void step(std::uint32_t (&d)[2], const operands& o) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 "
        "{%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
        : "+r"(d[0]), "+r"(d[1])
        : "r"(o.a[0]), "r"(o.a[1]), "r"(o.a[2]), "r"(o.a[3]), "r"(o.b[0]), "r"(o.b[1]));
  }
};

struct mma_s8 {
  static constexpr const char* name = "mma_s8_s32";
  static constexpr int operations = 2 * 16 * 8 * 32 / 32;
  static constexpr std::uint32_t mask = 0xFFFFFFFFU;
  using value = std::int32_t;
  static constexpr int values = 4;
  __device__ __forceinline__ static void step(std::int32_t (&d)[4], const operands& o) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(o.a[0]), "r"(o.a[1]), "r"(o.a[2]), "r"(o.a[3]), "r"(o.b[0]), "r"(o.b[1]));
  }
};

/// From compute capability 8.9 on; older devices run nothing. For 9.0 the compiler unpacks to half
/// and multiplies those, with an addition of its own; operands that depend on the last sum keep it
/// from computing one product for all.
struct mma_e4m3 {
  static constexpr const char* name = "mma_e4m3_f32";
  static constexpr int operations = mma_s8::operations;
  static constexpr std::uint32_t mask = 0xBFBFBFBFU;  // |x| < 2, no NaN
  using value = float;
  static constexpr int values = 4;
  __device__ __forceinline__ static void step(float (&d)[4], const operands& o) {
#if __CUDA_ARCH__ >= 890
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(o.a[0]), "r"(o.a[1]), "r"(o.a[2]), "r"(o.a[3]), "r"(__float_as_uint(d[0]) & mask),
          "r"(o.b[1]));
#else
    static_cast<void>(d);
    static_cast<void>(o);
#endif
  }
};

// One instruction of a lane. `operations`: lane instructions, but for dp4a its 4 + 4.
struct lane_instruction {
  static constexpr int operations = 1;
  static constexpr std::uint32_t mask = 0xFFFFFFFFU;
  using value = std::uint32_t;
  static constexpr int values = 1;
};

#define SUBBYTE_LANE_INSTRUCTION(NAME, TEXT)                                                \
  struct NAME : lane_instruction {                                                          \
    static constexpr const char* name = #NAME;                                              \
    __device__ __forceinline__ static void step(std::uint32_t (&d)[1], const operands& o) { \
      asm volatile(TEXT : "+r"(d[0]) : "r"(o.a[0]), "r"(o.b[0]));                           \
    }                                                                                       \
  };
SUBBYTE_LANE_INSTRUCTION(lop3, "lop3.b32 %0, %0, %1, %2, 0xB8;")
SUBBYTE_LANE_INSTRUCTION(prmt, "prmt.b32 %0, %0, %1, %2;")
SUBBYTE_LANE_INSTRUCTION(shf, "shf.l.wrap.b32 %0, %0, %1, %2;")
SUBBYTE_LANE_INSTRUCTION(imad, "mad.lo.u32 %0, %0, %1, %2;")
SUBBYTE_LANE_INSTRUCTION(shfl, "shfl.sync.bfly.b32 %0, %0, %1, 31, 0xFFFFFFFF;")
SUBBYTE_LANE_INSTRUCTION(hfma2, "fma.rn.f16x2 %0, %0, %1, %2;")
SUBBYTE_LANE_INSTRUCTION(hfma2_bf16, "fma.rn.bf16x2 %0, %0, %1, %2;")
#undef SUBBYTE_LANE_INSTRUCTION

struct dp4a : lane_instruction {
  static constexpr const char* name = "dp4a";
  static constexpr int operations = 8;
  __device__ __forceinline__ static void step(std::uint32_t (&d)[1], const operands& o) {
    asm volatile("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[0]) : "r"(o.a[0]), "r"(o.b[0]));
  }
};

struct ffma : lane_instruction {
  static constexpr const char* name = "ffma";
  using value = float;
  __device__ __forceinline__ static void step(float (&d)[1], const operands& o) {
    asm volatile("fma.rn.f32 %0, %0, %1, %2;"
                 : "+f"(d[0])
                 : "f"(__uint_as_float(o.a[0])), "f"(__uint_as_float(o.b[0])));
  }
};

/// int to float, of a byte: how levels become floats.
struct i2f : lane_instruction {
  static constexpr const char* name = "i2f_u8";
  __device__ __forceinline__ static void step(std::uint32_t (&d)[1], const operands&) {
    float f;
    asm volatile("{ .reg .b16 b; cvt.u16.u32 b, %1; cvt.rn.f32.u8 %0, b; }" : "=f"(f) : "r"(d[0]));
    d[0] = __float_as_uint(f);
  }
};

/// Clock ticks of block 0 go to ticks.
template <class Instruction>
__global__ void __launch_bounds__(rate_threads)
    rate_kernel(std::uint32_t seed, int iterations, long long* ticks, std::uint32_t* sink) {
  using value = typename Instruction::value;
  operands o;
  std::uint32_t h = (threadIdx.x + seed) * 0x9E3779B9U + 1;
#pragma unroll
  for (int i = 0; i < 6; ++i) {
    h = (h ^ (h >> 15)) * 0x2C1B3C6DU;
    h ^= h >> 13;
    (i < 4 ? o.a[i % 4] : o.b[i % 2]) = h & Instruction::mask;
  }
  value d[rate_chains][Instruction::values];
#pragma unroll
  for (int c = 0; c < rate_chains; ++c) {
#pragma unroll
    for (int i = 0; i < Instruction::values; ++i) d[c][i] = static_cast<value>(h >> (c + 8));
  }
  const long long begin = clock64();
#pragma unroll 4
  for (int n = 0; n < iterations; ++n) {
#pragma unroll
    for (int c = 0; c < rate_chains; ++c) Instruction::step(d[c], o);
  }
  const long long end = clock64();
  value sum = d[0][0];
#pragma unroll
  for (int c = 0; c < rate_chains; ++c) {
#pragma unroll
    for (int i = 0; i < Instruction::values; ++i) sum += d[c][i];
  }
  if (static_cast<std::uint32_t>(sum) == 0x5BD1E995U) *sink = static_cast<std::uint32_t>(sum);
  if (blockIdx.x == 0 && threadIdx.x == 0) *ticks = end - begin;
}

// ---- launches ---------------------------------------------------------------------------------

__global__ void idle_kernel(std::uint32_t* sink) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  if (sink == nullptr) __trap();
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// -----------------------------------------------------------------------------------------------

class probes {
 public:
  probes(const device& on, double seconds)
      : on_(on), timer_(on), budget_(seconds), sink_(on, 256), ticks_(on, 256) {}

  /// save(): whenever something is done.
  template <class Save>
  void run(bench::results& out, Save save) {
    index_t size = 1024 * megabyte;
    while (size > 256 * megabyte &&
           size > static_cast<index_t>(on_.properties().totalGlobalMem / 8)) {
      size /= 2;
    }
    source_ = device_bytes(on_, size);
    target_ = device_bytes(on_, size);
    for (device_bytes* b : {&source_, &target_}) {
      fill_kernel<<<4096, 256, 0, timer_.stream()>>>(reinterpret_cast<uint4*>(b->on_device()),
                                                     size / 16);
      bench::check(cudaGetLastError(), "fill");
    }
    timer_.synchronize();

    const auto step = [&](const char* name, auto body) {
      if (budget_.passed()) {
        out.skipped.push_back(std::string("probe ") + name);
        return;
      }
      body(out.section(name));
      set_ceilings(out, size);
      save();
    };
    step("reads", [&](auto& list) { reads(list); });
    step("writes", [&](auto& list) { writes(list); });
    step("l2", [&](auto& list) { l2(list); });
    step("launches", [&](auto& list) { launches(list); });
    step("matrix_instructions", [&](auto& list) {
      rate<mma_f16>(list);
      rate<mma_bf16>(list);
      rate<mma_f16_f16>(list);
      rate<mma_s8>(list);
      const cudaDeviceProp& p = on_.properties();
      if (p.major * 10 + p.minor >= 89) rate<mma_e4m3>(list);
    });
    step("lane_instructions", [&](auto& list) {
      rate<dp4a>(list);
      rate<ffma>(list);
      rate<hfma2>(list);
      rate<hfma2_bf16>(list);
      rate<i2f>(list);
      rate<lop3>(list);
      rate<prmt>(list);
      rate<shf>(list);
      rate<imad>(list);
      rate<shfl>(list);
    });
    step("reads_by_size", [&](auto& list) { reads_by_size(list); });
    if (on_.properties().major >= 9) {
      step("bulk_reads", [&](auto& list) {
        for (const int blocks : {1, 2, 4}) {
          read_bulk<2>(list, blocks);
          read_bulk<5>(list, blocks);
        }
      });
    }
  }

 private:
  static double number(const record& r, const std::string& name) {
    for (const auto& [own, value] : r) {
      if (own != name) continue;
      if (const double* d = std::get_if<double>(&value)) return *d;
      if (const auto* i = std::get_if<std::int64_t>(&value)) return static_cast<double>(*i);
    }
    return 0;
  }

  static void set_ceilings(bench::results& out, index_t size) {
    double read = 0;
    for (const char* const name : {"reads", "bulk_reads"}) {
      for (const auto& [own, records] : out.sections) {
        if (own != name) continue;
        for (const record& r : records) read = std::max(read, number(r, "tb_per_s"));
      }
    }
    double copy = 0;
    double write = 0;
    for (const record& r : out.section("writes")) {
      if (number(r, "words_written") > 1) continue;
      double& ceiling = number(r, "words_read") == 0 ? write : copy;
      ceiling = std::max(ceiling, number(r, "tb_per_s"));
    }
    out.section("ceilings") = {{{"read_tb_per_s", read},
                                {"copy_tb_per_s", copy},
                                {"write_tb_per_s", write},
                                {"bytes", size}}};
  }

  static record described(const timed& t, double bytes, const std::string& name) {
    return {{"name", name},          {"us", t.us.median}, {"fastest_us", t.us.fastest},
            {"spread", t.us.spread}, {"bytes", bytes},    {"tb_per_s", bytes / t.us.median * 1e-6}};
  }

  template <int Loads>
  void read(std::vector<record>& out, int blocks_per_multiprocessor) {
    const index_t words = source_.size() / 16;
    const auto* const from = reinterpret_cast<const uint4*>(source_.on_device());
    const int blocks = blocks_per_multiprocessor * on_.multiprocessors();
    const timed t = timer_.alone({"",
                                  [&](cudaStream_t s, int) {
                                    read_kernel<Loads>
                                        <<<blocks, memory_threads, 0, s>>>(from, words, 1, sink());
                                    bench::check(cudaGetLastError(), "read");
                                  }},
                                 {});
    record r = described(t, static_cast<double>(words * 16),
                         "loads of 16 bytes, " + std::to_string(Loads) + " a thread, " +
                             std::to_string(blocks_per_multiprocessor) + " blocks");
    r.emplace_back("bytes_in_flight",
                   std::int64_t{16} * Loads * memory_threads * blocks_per_multiprocessor);
    out.push_back(r);
  }

  template <int Stages>
  void read_async(std::vector<record>& out, int blocks_per_multiprocessor) {
    const index_t words = source_.size() / 16;
    const auto* const from = reinterpret_cast<const uint4*>(source_.on_device());
    const int blocks = blocks_per_multiprocessor * on_.multiprocessors();
    const timed t = timer_.alone({"",
                                  [&](cudaStream_t s, int) {
                                    read_async_kernel<Stages>
                                        <<<blocks, memory_threads, 0, s>>>(from, words, sink());
                                    bench::check(cudaGetLastError(), "read");
                                  }},
                                 {});
    record r = described(t, static_cast<double>(words * 16),
                         "cp.async, " + std::to_string(Stages) + " stages, " +
                             std::to_string(blocks_per_multiprocessor) + " blocks");
    r.emplace_back("bytes_in_flight",
                   std::int64_t{16} * (Stages - 1) * memory_threads * blocks_per_multiprocessor);
    out.push_back(r);
  }

  template <int Stages>
  void read_bulk(std::vector<record>& out, int blocks_per_multiprocessor) {
    const index_t words = source_.size() / 16;
    const auto* const from = reinterpret_cast<const uint4*>(source_.on_device());
    const int blocks = blocks_per_multiprocessor * on_.multiprocessors();
    const timed t = timer_.alone({"",
                                  [&](cudaStream_t s, int) {
                                    read_bulk_kernel<Stages>
                                        <<<blocks, bulk_warps * 32, 0, s>>>(from, words, sink());
                                    bench::check(cudaGetLastError(), "read");
                                  }},
                                 {});
    record r = described(t, static_cast<double>(words * 16),
                         "bulk copies of 2 KiB, " + std::to_string(Stages) + " stages, " +
                             std::to_string(blocks_per_multiprocessor) + " blocks");
    r.emplace_back("bytes_in_flight",
                   std::int64_t{16} * bulk_words * Stages * bulk_warps * blocks_per_multiprocessor);
    out.push_back(r);
  }

  void reads(std::vector<record>& out) {
    for (const int blocks : {1, 2, 4, 8}) {
      read<1>(out, blocks);
      read<2>(out, blocks);
      read<4>(out, blocks);
      read<8>(out, blocks);
    }
    for (const int blocks : {1, 2, 4}) {
      read_async<4>(out, blocks);
      read_async<8>(out, blocks);
    }
    // One block for every tile: nothing is resident longer than it loads.
    const index_t words = source_.size() / 16;
    read<4>(out, static_cast<int>(words / (4 * memory_threads) / on_.multiprocessors()));
  }

  template <int Reads, int Writes>
  void write(std::vector<record>& out, const char* name) {
    const index_t words = target_.size() / 16 / Writes;
    const auto* const from = reinterpret_cast<const uint4*>(source_.on_device());
    auto* const to = reinterpret_cast<uint4*>(target_.on_device());
    for (const int blocks : {2, 4, 8, 16}) {
      const timed t = timer_.alone(
          {"",
           [&](cudaStream_t s, int) {
             write_kernel<Reads, Writes>
                 <<<blocks * on_.multiprocessors(), memory_threads, 0, s>>>(from, to, words);
             bench::check(cudaGetLastError(), "write");
           }},
          {});
      record r = described(t, static_cast<double>(words * 16 * (Reads + Writes)),
                           std::string(name) + ", " + std::to_string(blocks) + " blocks");
      r.emplace_back("words_read", Reads);
      r.emplace_back("words_written", Writes);
      out.push_back(r);
    }
  }

  void writes(std::vector<record>& out) {
    write<0, 1>(out, "write");
    write<1, 1>(out, "copy");
    write<1, 2>(out, "write two words for one read");
    write<1, 4>(out, "write four words for one read");
    const timed t =
        timer_.alone({"",
                      [&](cudaStream_t s, int) {
                        bench::check(cudaMemcpyAsync(target_.on_device(), source_.on_device(),
                                                     static_cast<std::size_t>(source_.size()),
                                                     cudaMemcpyDeviceToDevice, s),
                                     "a copy");
                      }},
                     {});
    record r = described(t, 2.0 * static_cast<double>(source_.size()), "copy, cudaMemcpyAsync");
    r.emplace_back("words_read", 1);
    r.emplace_back("words_written", 1);
    out.push_back(r);
  }

  void l2(std::vector<record>& out) {
    const auto* const from = reinterpret_cast<const uint4*>(source_.on_device());
    for (const index_t megabytes : {8, 16, 24}) {
      if (megabytes * megabyte > on_.properties().l2CacheSize) continue;
      constexpr int passes = 32;
      const index_t words = megabytes * megabyte / 16;
      const timed t =
          timer_.alone({"",
                        [&](cudaStream_t s, int) {
                          read_kernel<4><<<8 * on_.multiprocessors(), memory_threads, 0, s>>>(
                              from, words, passes, sink());
                          bench::check(cudaGetLastError(), "read");
                        }},
                       {});
      out.push_back(described(t, static_cast<double>(words * 16 * passes),
                              std::to_string(megabytes) + " MiB in L2"));
    }
  }

  void reads_by_size(std::vector<record>& out) {
    for (const index_t megabytes : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
      const index_t words = megabytes * megabyte / 16;
      const int copies = static_cast<int>(source_.size() / (words * 16));
      // Enough tiles for all, not more blocks than fit at once.
      const auto blocks = static_cast<int>(
          std::min<index_t>(words / (2 * memory_threads), 8 * on_.multiprocessors()));
      const timed t = timer_.alone({"",
                                    [&](cudaStream_t s, int i) {
                                      const auto* const from =
                                          reinterpret_cast<const uint4*>(source_.on_device());
                                      read_kernel<2><<<blocks, memory_threads, 0, s>>>(
                                          from + i % copies * words, words, 1, sink());
                                      bench::check(cudaGetLastError(), "read");
                                    },
                                    std::min(copies, 400)},
                                   {});
      out.push_back(
          described(t, static_cast<double>(words * 16), std::to_string(megabytes) + " MiB, cold"));
    }
  }

  void launches(std::vector<record>& out) {
    const auto gap = [&](const char* name, int blocks, bool programmatic) {
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(blocks));
      config.blockDim = dim3(128);
      config.attrs = &attribute;
      config.numAttrs = programmatic ? 1 : 0;
      const timed t = timer_.alone({"",
                                    [&](cudaStream_t s, int) {
                                      config.stream = s;
                                      bench::check(cudaLaunchKernelEx(&config, idle_kernel, sink()),
                                                   "a launch");
                                    }},
                                   {});
      out.push_back({{"name", std::string(name)},
                     {"us", t.us.median},
                     {"fastest_us", t.us.fastest},
                     {"spread", t.us.spread}});
    };
    gap("one idle block", 1, false);
    gap("idle blocks, 8 a multiprocessor", 8 * on_.multiprocessors(), false);
    if (on_.properties().major >= 9) {
      gap("idle blocks, 8 a multiprocessor, programmatic", 8 * on_.multiprocessors(), true);
    }
  }

  template <class Instruction>
  void rate(std::vector<record>& out) {
    constexpr int blocks_per_multiprocessor = 8;
    constexpr int warps = blocks_per_multiprocessor * rate_threads / 32;
    const int blocks = blocks_per_multiprocessor * on_.multiprocessors();
    auto* const ticks = reinterpret_cast<long long*>(ticks_.on_device());
    const int iterations = 2048;
    const timed t = timer_.alone({"",
                                  [&](cudaStream_t s, int i) {
                                    rate_kernel<Instruction><<<blocks, rate_threads, 0, s>>>(
                                        static_cast<std::uint32_t>(i), iterations, ticks, sink());
                                    bench::check(cudaGetLastError(), Instruction::name);
                                  }},
                                 {.replays = 9, .replay_us = 3000});
    long long measured = 0;
    bench::check(cudaMemcpy(&measured, ticks, sizeof(measured), cudaMemcpyDeviceToHost), "ticks");
    const double of_a_multiprocessor =
        static_cast<double>(Instruction::operations) * 32 * warps * rate_chains * iterations;
    const double per_clock = of_a_multiprocessor / static_cast<double>(measured);
    out.push_back({{"name", std::string(Instruction::name)},
                   {"tera_per_s", of_a_multiprocessor * on_.multiprocessors() / t.us.median * 1e-6},
                   {"per_clock_and_multiprocessor", per_clock},
                   {"clock_mhz", static_cast<double>(measured) / t.us.median},
                   {"us", t.us.median},
                   {"spread", t.us.spread}});
  }

  std::uint32_t* sink() const { return reinterpret_cast<std::uint32_t*>(sink_.on_device()); }

  const device& on_;
  bench::timer timer_;
  bench::deadline budget_;
  device_bytes sink_;
  device_bytes ticks_;
  device_bytes source_;
  device_bytes target_;
};

}  // namespace

int main(int argc, char** argv) try {
  const bench::options options = bench::parse_options(argc, argv, 40);
  const device on(0);
  bench::results out;
  out.machine = describe(on, options);
  bench::add_clocks(out, "before");
  probes(on, options.seconds).run(out, [&] { write_json(out, options.out); });
  bench::add_clocks(out, "after");
  write_json(out, options.out);
  std::printf("%s\n", options.out.c_str());
  for (const char* const name : {"reads", "bulk_reads", "writes", "l2", "reads_by_size"}) {
    std::printf("%s", bench::table(out.section(name), {"name", "us", "tb_per_s"}).c_str());
  }
  for (const char* const name : {"matrix_instructions", "lane_instructions"}) {
    std::printf("%s", bench::table(out.section(name), {"name", "tera_per_s",
                                                       "per_clock_and_multiprocessor", "clock_mhz"})
                          .c_str());
  }
  std::printf("%s", bench::table(out.section("launches"), {"name", "us"}).c_str());
  std::printf("%s", bench::table(out.section("ceilings"),
                                 {"read_tb_per_s", "copy_tb_per_s", "write_tb_per_s"})
                        .c_str());
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "probes: %s\n", e.what());
  return 1;
}
