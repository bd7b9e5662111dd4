# The warnings that all our own code passes, on GCC and Clang.
add_library(ridgeline_warnings INTERFACE)
target_compile_options(
  ridgeline_warnings
  INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow
            # GCC 12 sees an overlap in "text" + std::string (GCC bug 105651).
            $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> $<$<BOOL:${RIDGELINE_WERROR}>:-Werror>)
