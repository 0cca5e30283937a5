// SPDX-License-Identifier: Apache-2.0
/// Where the cases of cuda/ run: on threads of the host, or on a device. Both have
///
///   queue()            what calls queue their work on
///   place(values)      memory that holds them; .data() is for calls, .read() brings them back
///   poisoned<T>(n)     memory of n T whose bytes are all ones: NaN, or -1
#pragma once

#include <cstring>
#include <vector>

#if defined(__CUDACC__)
#include "subbyte/cuda/thread.cuh"
#else
#include "support/emulated_device.hpp"
#endif

namespace test_support {

template <class T>
std::vector<T> all_ones(std::size_t count) {
  std::vector<T> values(count);
  if (count > 0) std::memset(static_cast<void*>(values.data()), 0xFF, count * sizeof(T));
  return values;
}

#if defined(__CUDACC__)

class machine {
 public:
  template <class T>
  class memory {
   public:
    memory(const subbyte::cuda::device& on, const std::vector<T>& values)
        : bytes_(on, static_cast<subbyte::index_t>(values.size() * sizeof(T))),
          count_(values.size()) {
      subbyte::cuda::copy_bytes({}, values.data(), bytes_.size(), bytes_.on_device());
      subbyte::cuda::stream_ref().synchronize();
    }
    T* data() const { return reinterpret_cast<T*>(bytes_.on_device()); }
    /// After everything queued before.
    std::vector<T> read() const {
      std::vector<T> values(count_);
      subbyte::cuda::copy_bytes({}, bytes_.on_device(), bytes_.size(), values.data());
      subbyte::cuda::stream_ref().synchronize();
      return values;
    }

   private:
    subbyte::cuda::device_bytes bytes_;
    std::size_t count_;
  };

  subbyte::cuda::stream_ref queue() const { return {}; }
  template <class T>
  memory<T> place(const std::vector<T>& values) const {
    return {device_, values};
  }
  template <class T>
  memory<T> poisoned(std::size_t count) const {
    return place(all_ones<T>(count));
  }

 private:
  subbyte::cuda::device device_;
};

#else

class machine {
 public:
  template <class T>
  class memory {
   public:
    explicit memory(const std::vector<T>& values) : values_(values) { values_.shrink_to_fit(); }
    T* data() const { return values_.data(); }
    std::vector<T> read() const { return values_; }

   private:
    mutable std::vector<T> values_;
  };

  emulated_queue queue() const { return {}; }
  template <class T>
  memory<T> place(const std::vector<T>& values) const {
    return memory<T>(values);
  }
  template <class T>
  memory<T> poisoned(std::size_t count) const {
    return place(all_ones<T>(count));
  }
};

#endif

}  // namespace test_support
