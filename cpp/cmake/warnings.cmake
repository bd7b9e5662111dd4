# The warnings that all our own code passes, on GCC and Clang.
add_library(ridgeline_warnings INTERFACE)
target_compile_options(
  ridgeline_warnings INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow $<$<BOOL:${RIDGELINE_WERROR}>:-Werror>)
