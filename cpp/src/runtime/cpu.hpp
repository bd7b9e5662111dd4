#pragma once

#include <string_view>

namespace ridgeline {

/// Whether this CPU, under this operating system, runs the code of a target.
bool cpu_runs(std::string_view target);

}  // namespace ridgeline
