#pragma once

#include <cstddef>
#include <memory>

namespace ridgeline {

/// An uninitialized buffer of a size known at run time; up to Inline elements need no allocation.
template <class T, std::size_t Inline>
class SmallBuffer {
 public:
  explicit SmallBuffer(std::size_t size) {
    if (size > Inline) heap_.reset(new T[size]);
    data_ = size > Inline ? heap_.get() : inline_;
  }
  SmallBuffer(const SmallBuffer&) = delete;
  SmallBuffer& operator=(const SmallBuffer&) = delete;

  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  T inline_[Inline];
  std::unique_ptr<T[]> heap_;
  T* data_;
};

}  // namespace ridgeline
