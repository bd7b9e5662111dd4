// Views of memory that somebody else owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace ridgeline {

enum class DType : std::uint8_t { float32, float64, bfloat16, float16 };
inline constexpr std::size_t dtype_count = 4;

constexpr std::size_t item_size(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}
constexpr const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "bfloat16", "float16"};
  return names[static_cast<std::size_t>(dtype)];
}

/// The two 16-bit storage types: bits in memory, float32 in arithmetic.
struct Bfloat16 {
  static constexpr DType dtype = DType::bfloat16;
  std::uint16_t bits;
};
struct Float16 {
  static constexpr DType dtype = DType::float16;
  std::uint16_t bits;
};

/// Reductions add inside fixed blocks of this many elements, in C order, then over the blocks.
inline constexpr std::size_t block_size = 4096;

/// One axis of a strided array; the stride is in bytes and may be negative or unaligned.
struct Dim {
  std::int64_t extent;
  std::int64_t stride;
  friend bool operator==(const Dim&, const Dim&) = default;
};

/// An array in memory: `size` elements of one type, in C order, contiguous unless `dims` says
/// otherwise. Owns nothing. Whether it is read or written is the called function's to say.
struct Array {
  void* data = nullptr;
  std::int64_t size = 0;
  DType dtype = DType::float32;
  std::vector<Dim> dims;  ///< merged axes, slowest first; empty when contiguous

  Array() = default;
  Array(void* data_, DType dtype_, std::int64_t size_) : data(data_), size(size_), dtype(dtype_) {}
  Array(void* data_, DType dtype_, std::span<const std::int64_t> shape,
        std::span<const std::int64_t> byte_strides);
  Array(const float* x, std::int64_t n) : Array(const_cast<float*>(x), DType::float32, n) {}
  Array(const double* x, std::int64_t n) : Array(const_cast<double*>(x), DType::float64, n) {}

  bool contiguous() const { return dims.empty(); }
};

using Arrays = std::span<const Array>;

/// A bad argument. what() names it; the members let a binding name it in its caller's words.
class ArgumentError : public std::invalid_argument {
 public:
  enum class Kind : std::uint8_t { type, value };

  /// In `text`, {} stands for the place of the other array that it is about.
  ArgumentError(Kind kind_, const char* argument_, std::ptrdiff_t index_, const std::string& text,
                const char* other_ = nullptr, std::ptrdiff_t other_index_ = -1)
      : std::invalid_argument(place(argument_, index_) + ": " +
                              filled(text, place(other_, other_index_))),
        kind(kind_), argument(argument_), index(index_), other(other_), other_index(other_index_),
        text_(text) {}

  /// What is wrong, with the other array called `other_place`.
  std::string problem(const std::string& other_place) const { return filled(text_, other_place); }

  Kind kind;
  const char* argument;
  std::ptrdiff_t index;  ///< of the array in the argument; -1: the argument itself
  const char* other;     ///< null if there is no other
  std::ptrdiff_t other_index;

 private:
  static std::string place(const char* name, std::ptrdiff_t i) {
    std::string result = name == nullptr ? "" : name;
    return i < 0 ? result : result.append("[").append(std::to_string(i)).append("]");
  }
  static std::string filled(std::string text, const std::string& other_place) {
    const auto at = text.find("{}");
    return at == std::string::npos ? text : text.replace(at, 2, other_place);
  }

  std::string text_;
};

}  // namespace ridgeline
