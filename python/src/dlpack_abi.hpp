// The DLPack 1.x binary interface, as far as we read it
// (https://dmlc.github.io/dlpack/latest/c_api.html).
#pragma once

#include <cstdint>

namespace dlpack {

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};

enum DeviceType : std::int32_t { cpu = 1 };

struct Device {
  std::int32_t type;
  std::int32_t id;
};

enum TypeCode : std::uint8_t { float_code = 2, bfloat_code = 4 };

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

/// Strides count elements; null means C order.
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

/// In a capsule named "dltensor".
struct ManagedTensor {
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor*);
};

/// In a capsule named "dltensor_versioned".
struct ManagedTensorVersioned {
  Version version;
  void* manager_context;
  void (*deleter)(ManagedTensorVersioned*);
  std::uint64_t flags;
  Tensor tensor;
};
inline constexpr std::uint64_t read_only_flag = 1;
inline constexpr std::uint64_t copied_flag = 2;

/// The table behind `type.__dlpack_c_exchange_api__`, a capsule named "dlpack_exchange_api".
/// Functions return 0, or -1 with a Python exception set; the tensor that is filled in owns
/// nothing.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* managed_tensor_allocator;
  int (*managed_tensor_from_object)(void* object, ManagedTensorVersioned** out);
  int (*managed_tensor_to_object)(ManagedTensorVersioned* tensor, void** out);
  int (*tensor_from_object)(void* object, Tensor* out);  ///< may be null
  void* current_work_stream;
};

}  // namespace dlpack
