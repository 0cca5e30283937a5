// SPDX-License-Identifier: Apache-2.0
/// What the example programs share at their edges: one line for every error, a progress bar, and a
/// list of the formats.
#pragma once

#include <signal.h>  // sigaction, SIGXFSZ
#include <unistd.h>  // isatty

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "subbyte/core/error.hpp"

namespace example {

/// Set by an interrupt; programs that write a file look at it, so that no temporary stays behind.
inline volatile sig_atomic_t interrupted = 0;

/// Throws errc::cancelled once the user has interrupted the program.
inline void check_interrupt() {
  if (interrupted != 0) {
    subbyte::throw_error(subbyte::errc::cancelled, "interrupted", "nothing was written");
  }
}

/// Makes interrupts cancel through check_interrupt().
inline void cancel_on_interrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second interrupt ends the program at once
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &action, nullptr);
}

/// Parses the command line into `app`, runs body(), and turns whatever goes wrong into one line on
/// stderr and exit code 1 (2 for a command line that does not parse).
template <class Body>
int run(CLI::App& app, int argc, char** argv, const Body& body) {
  const auto fail = [&](std::string message, int code) {
    for (char& c : message) {
      if (c == '\n' || c == '\r') c = ' ';
    }
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), message.c_str());
    return code;
  };
  ::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error of write(), like a full disk
  ::signal(SIGPIPE, SIG_IGN);
  try {
    app.parse(argc, argv);
    body();
    std::cout.flush();
    if (!std::cout || std::fflush(stdout) != 0) return fail("cannot write to standard output", 1);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    return fail(std::string(e.what()) + " (--help lists the options)", 2);
  } catch (const std::bad_alloc&) {
    return fail("out of memory", 1);
  } catch (const std::exception& e) {
    return fail(e.what(), 1);
  }
}

/// A bar with the time left, on a terminal only.
class progress_bar {
 public:
  explicit progress_bar(std::string label) : label_(std::move(label)) {}
  ~progress_bar() {
    if (drawn_) std::fputs("\r\033[K", stderr);
  }
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;

  /// Draws `done` of `total`, at most ten times a second.
  void update(double done, double total) {
    if (!terminal_ || total <= 0) return;
    const auto now = clock::now();
    if (drawn_ && now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    drawn_ = true;
    constexpr int width = 40;
    const double share = done < total ? done / total : 1;
    const int filled = static_cast<int>(share * width);
    const double spent = std::chrono::duration<double>(now - start_).count();
    const double left = share > 0 ? spent * (1 - share) / share : 0;
    std::fprintf(stderr, "\r\033[K%s [%.*s%*s] %3.0f %%  %.0f s left", label_.c_str(), filled,
                 "########################################", width - filled, "", share * 100, left);
  }

 private:
  using clock = std::chrono::steady_clock;
  std::string label_;
  bool terminal_ = ::isatty(STDERR_FILENO) != 0;
  bool drawn_ = false;
  clock::time_point start_ = clock::now(), last_{};
};

}  // namespace example
