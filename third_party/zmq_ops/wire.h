// Reads one batch message; wire.py describes the format and writes it. Depends on the C++ library alone, so that it can
// be tested and fuzzed without TensorFlow or ZMQ.
//
// Nothing in a message is trusted: every length is checked in 64-bit arithmetic before it is used.

#ifndef ZMQ_OPS_WIRE_H_
#define ZMQ_OPS_WIRE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

// The format is little-endian and payloads are copied as they are.
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "zmq_ops needs a little-endian machine"
#endif

namespace zmq_ops {

struct Dtype {
  int32_t code;  // on the wire; TensorFlow's DataType number
  const char* name;
  int64_t item_size;  // bytes
};

// The highest rank a tensorflow::TensorShape can have.
constexpr int32_t kMaxRank = 254;

constexpr int32_t kBoolCode = 10;

// The dtype of a code, or null. wire.py has the same table.
inline const Dtype* FindDtype(int32_t code) {
  static constexpr Dtype kDtypes[] = {
      {1, "float32", 4},   {2, "float64", 8},  {3, "int32", 4},  {4, "uint8", 1},         {5, "int16", 2},
      {6, "int8", 1},      {8, "complex64", 8}, {9, "int64", 8},  {kBoolCode, "bool", 1}, {17, "uint16", 2},
      {18, "complex128", 16}, {19, "float16", 2}, {22, "uint32", 4}, {23, "uint64", 8},
  };
  for (const Dtype& dtype : kDtypes) {
    if (dtype.code == code) return &dtype;
  }
  return nullptr;
}

// One tensor of a message; the payload points into the message and is aligned for bytes only.
struct TensorView {
  const Dtype* dtype = nullptr;
  std::vector<int64_t> dims;
  const char* payload = nullptr;
  int64_t bytes = 0;
};

class MessageParser {
 public:
  MessageParser(const void* data, size_t size) : data_(static_cast<const char*>(data)), size_(size) {}

  // Reads the whole message, which must hold one tensor for each of the codes `declared`, in their order.
  // Returns false if it does not; then error() says what is wrong and where, and `tensors` is of no use.
  bool Parse(const std::vector<int32_t>& declared, std::vector<TensorView>* tensors) {
    tensors->clear();
    int32_t count;
    if (!Read(&count)) return Truncated("the number of tensors", sizeof count);
    if (count < 0 || static_cast<size_t>(count) != declared.size()) {
      return Fail("the message holds " + std::to_string(count) + " tensors, " + std::to_string(declared.size()) +
                  " are declared");
    }
    tensors->resize(declared.size());
    for (size_t i = 0; i < declared.size(); ++i) {
      component_ = "component " + std::to_string(i) + ": ";
      if (!ParseTensor(declared[i], &(*tensors)[i])) return false;
    }
    component_.clear();
    if (Left() > 0) return Fail(std::to_string(Left()) + " bytes follow the last tensor");
    return true;
  }

  const std::string& error() const { return error_; }

 private:
  bool ParseTensor(int32_t declared, TensorView* tensor) {
    int32_t code, rank;
    if (!Read(&code)) return Truncated("the dtype", sizeof code);
    tensor->dtype = FindDtype(code);
    if (tensor->dtype == nullptr) return Fail("unknown dtype code " + std::to_string(code));
    if (code != declared) {
      const Dtype* wanted = FindDtype(declared);
      return Fail(std::string("dtype is ") + tensor->dtype->name + ", declared is " +
                  (wanted ? wanted->name : "an unknown one"));
    }
    if (!Read(&rank)) return Truncated("the rank", sizeof rank);
    if (rank < 0 || rank > kMaxRank) {
      return Fail("rank " + std::to_string(rank) + " is not within 0 and " + std::to_string(kMaxRank));
    }
    return ReadDims(rank, tensor) && ReadPayload(tensor);
  }

  bool ReadDims(int32_t rank, TensorView* tensor) {
    tensor->dims.reserve(std::min<size_t>(rank, Left() / sizeof(int32_t)));  // the rank may be a lie
    for (int32_t d = 0; d < rank; ++d) {
      int32_t dim;
      if (!Read(&dim)) return Truncated("dimension " + std::to_string(d), sizeof dim);
      if (dim < 0) return Fail("dimension " + std::to_string(d) + " is " + std::to_string(dim));
      tensor->dims.push_back(dim);
    }
    return true;
  }

  bool ReadPayload(TensorView* tensor) {
    int64_t expected;
    if (!ByteSize(*tensor, &expected)) return Fail("shape " + ShapeText(*tensor) + " is too large");
    if (!Read(&tensor->bytes)) return Truncated("the payload length", sizeof tensor->bytes);
    if (tensor->bytes != expected) {
      return Fail("the payload has " + std::to_string(tensor->bytes) + " bytes, shape " + ShapeText(*tensor) + " of " +
                  tensor->dtype->name + " takes " + std::to_string(expected));
    }
    if (static_cast<uint64_t>(tensor->bytes) > Left()) return Truncated("the payload", tensor->bytes);
    tensor->payload = data_ + offset_;
    offset_ += tensor->bytes;
    return tensor->dtype->code != kBoolCode || CheckBools(*tensor);
  }

  // A C++ bool of any other value is undefined behaviour. Such a byte is refused, not turned into true: it rather comes
  // from a damaged message.
  bool CheckBools(const TensorView& tensor) {
    for (int64_t i = 0; i < tensor.bytes; ++i) {
      const int value = static_cast<unsigned char>(tensor.payload[i]);
      if (value > 1) return Fail("bool " + std::to_string(i) + " is stored as " + std::to_string(value));
    }
    return true;
  }

  // False if the product overflows. Zeros are left out of it until the end, so that the order of dimensions does not
  // matter and TensorShape accepts whatever passes.
  static bool ByteSize(const TensorView& tensor, int64_t* bytes) {
    bool empty = false;
    *bytes = tensor.dtype->item_size;
    for (int64_t dim : tensor.dims) {
      if (dim == 0) {
        empty = true;
      } else if (__builtin_mul_overflow(*bytes, dim, bytes)) {
        return false;
      }
    }
    if (empty) *bytes = 0;
    return true;
  }

  // Integers may lie at any offset, hence the memcpy.
  template <typename T>
  bool Read(T* value) {
    if (Left() < sizeof(T)) return false;
    std::memcpy(value, data_ + offset_, sizeof(T));
    offset_ += sizeof(T);
    return true;
  }

  size_t Left() const { return size_ - offset_; }

  bool Truncated(const std::string& what, int64_t bytes) {
    return Fail("the message of " + std::to_string(size_) + " bytes ends within " + what + ": " +
                std::to_string(bytes) + " bytes needed at offset " + std::to_string(offset_) + ", " +
                std::to_string(Left()) + " left");
  }

  bool Fail(const std::string& what) {
    error_ = component_ + what;
    return false;
  }

  static std::string ShapeText(const TensorView& tensor) {
    std::string text;
    for (int64_t dim : tensor.dims) text += (text.empty() ? "" : ",") + std::to_string(dim);
    return "[" + text + "]";
  }

  const char* const data_;
  const size_t size_;
  size_t offset_ = 0;
  std::string component_;  // start of an error's text
  std::string error_;
};

}  // namespace zmq_ops

#endif  // ZMQ_OPS_WIRE_H_
