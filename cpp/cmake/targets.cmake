# The targets that kernels are compiled for: one OBJECT library each, from the same sources. The list
# agrees with cpp/src/runtime/targets.def.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(RIDGELINE_TARGETS x86_64_v4 x86_64_v3 x86_64_v2 scalar)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(RIDGELINE_TARGETS neon scalar)
else()
  set(RIDGELINE_TARGETS scalar)
endif()

set(RIDGELINE_FLAGS_x86_64_v2 -march=x86-64-v2)
set(RIDGELINE_FLAGS_x86_64_v3 -march=x86-64-v3)
set(RIDGELINE_FLAGS_x86_64_v4 -march=x86-64-v4 -mprefer-vector-width=512)
set(RIDGELINE_FLAGS_neon "")
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  set(RIDGELINE_FLAGS_scalar -fno-vectorize -fno-slp-vectorize)
else()
  set(RIDGELINE_FLAGS_scalar -fno-tree-loop-vectorize -fno-tree-slp-vectorize)
endif()

set(RIDGELINE_REGISTER_BYTES_scalar 0)
set(RIDGELINE_REGISTER_BYTES_neon 16)
set(RIDGELINE_REGISTER_BYTES_x86_64_v2 16)
set(RIDGELINE_REGISTER_BYTES_x86_64_v3 32)
set(RIDGELINE_REGISTER_BYTES_x86_64_v4 64)

# Every target gives the same bits: no contraction to fused multiply-add, no fast-math. Kernels do not read
# errno or floating-point traps. Integer lanes wrap, on one lane as on many.
set(RIDGELINE_KERNEL_FLAGS -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fwrapv -fno-lto
                           -fno-exceptions -fno-rtti)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  # As GCC: a native instruction is found by the type of a register, not by its size.
  list(APPEND RIDGELINE_KERNEL_FLAGS -flax-vector-conversions=none)
endif()
if(RIDGELINE_SANITIZE)
  # With all of them at -O3 a kernel compiles for minutes; AddressSanitizer sees what these four would.
  list(TRANSFORM RIDGELINE_KERNEL_FLAGS REPLACE "-O3" "-O1")
  list(APPEND RIDGELINE_KERNEL_FLAGS -fno-sanitize=null,object-size,bounds,pointer-overflow)
endif()

# ridgeline_kernels(INTO SOURCES...): compiles the sources for all targets and links them into a library or program.
function(ridgeline_kernels into)
  foreach(target IN LISTS RIDGELINE_TARGETS)
    set(library ${into}_kernels_${target})
    add_library(${library} OBJECT ${ARGN})
    target_include_directories(${library} PRIVATE "${PROJECT_SOURCE_DIR}/cpp/include" "${PROJECT_SOURCE_DIR}/cpp/src")
    target_compile_definitions(
      ${library} PRIVATE RIDGELINE_TARGET=${target} RIDGELINE_REGISTER_BYTES=${RIDGELINE_REGISTER_BYTES_${target}})
    target_compile_options(
      ${library} PRIVATE ${RIDGELINE_KERNEL_FLAGS} ${RIDGELINE_FLAGS_${target}} -Wno-psabi
                         # GCC 12 warns inside its own avx512fintrin.h
                         $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized -Wno-maybe-uninitialized>)
    target_link_libraries(${library} PRIVATE $<BUILD_INTERFACE:ridgeline_warnings>)
    target_sources(${into} PRIVATE $<TARGET_OBJECTS:${library}>)
  endforeach()
endfunction()
