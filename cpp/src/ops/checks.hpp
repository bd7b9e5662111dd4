// Checks that every op makes before it writes a byte.
#pragma once

#include "ridgeline/array.hpp"
#include "ridgeline/constraints.hpp"

namespace ridgeline {

[[noreturn]] void bad_value(const char* argument, const std::string& problem,
                            std::ptrdiff_t index = -1);
[[noreturn]] void bad_type(const char* argument, const std::string& problem,
                           std::ptrdiff_t index = -1);

/// Shortest text that reads back as x.
std::string text(double x);

/// x is a number >= 0; infinity only if allowed.
void check_non_negative(const char* argument, double x, bool infinity_allowed);

/// ord > 0.
void check_ord(double ord);

/// lowest <= highest, neither NaN.
void check_box(const Box& box);

/// The same number of arrays, of pairwise equal size and dtype.
void check_alike(const char* argument, Arrays arrays, const char* model_name, Arrays model);

/// No array of `written` shares memory with itself, with another of them, or with one of `read`,
/// except with the array of `read` at its own place if `aliasing` (out= may be its input).
void check_disjoint(const char* written_name, Arrays written, const char* read_name = "",
                    Arrays read = {}, bool aliasing = false);

}  // namespace ridgeline
