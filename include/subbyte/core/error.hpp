// SPDX-License-Identifier: Apache-2.0
/// The one exception type, for bad input: files that lie, weights that are not finite, shapes that
/// do not fit.
#pragma once

#include <cstdio>     // std::fputs, without exceptions
#include <cstdlib>    // std::abort, without exceptions
#include <stdexcept>  // std::runtime_error
#include <string>
#include <string_view>
#include <utility>  // std::move

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"

/// Throws its argument; without exceptions prints its what() and aborts.
#if !defined(SUBBYTE_THROW)
#if defined(__cpp_exceptions)
#define SUBBYTE_THROW(exception) throw exception
#else
#define SUBBYTE_THROW(exception) \
  (std::fputs((exception).what(), stderr), std::fputc('\n', stderr), std::abort())
#endif
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// What kind of bad input it was.
enum class errc {
  bad_magic,     ///< not a file of the expected kind
  truncated,     ///< the file ends before what it promises
  bad_metadata,  ///< a header field contradicts another, the file's size or the container's rules
  not_found,     ///< no tensor or key of that name
  unsupported_format,     ///< a tensor type that is not known here
  bad_shape,              ///< extents that do not fit each other, the format or the container
  bad_argument,           ///< an option outside its range
  non_finite,             ///< NaN or Inf where finite values are required
  not_positive_definite,  ///< a Hessian that has no Cholesky factor
  layout_rejected,        ///< a shape that a packing layout does not take
  device_unavailable,     ///< no such GPU
  launch_failed,          ///< a GPU call failed
  cancelled,              ///< the caller's progress callback said stop
  out_of_memory,          ///< an allocation failed or would pass a stated bound
  io                      ///< the operating system refused
};

/// Bad input, with its subject: a file path, tensor name or parameter.
class error : public std::runtime_error {
 public:
  /// what() is "subject: message". The message names the value found and the value required.
  error(errc code, std::string subject, const std::string& message)
      : std::runtime_error(subject + ": " + message), code_(code), subject_(std::move(subject)) {}

  [[nodiscard]] errc code() const noexcept { return code_; }
  [[nodiscard]] std::string_view subject() const noexcept { return subject_; }

 private:
  errc code_;
  std::string subject_;
};

/// Throws error{code, subject, message}; prints and aborts under -fno-exceptions.
template <class Arch = arch::native>
[[noreturn, gnu::cold, gnu::noinline]] void throw_error(errc code, std::string subject,
                                                        const std::string& message) {
  SUBBYTE_THROW(error(code, std::move(subject), message));
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
