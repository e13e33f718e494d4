// Feeds MessageParser damaged messages: fuzz_wire SEED INPUTS. `make fuzz` builds it with AddressSanitizer and
// UndefinedBehaviorSanitizer. The inputs depend on the seed alone.
//
// Each input lies in a block of exactly its size, so that AddressSanitizer sees a read beyond it. The verdict and every
// tensor are compared with those of a reader of the format's description, below, and the memory that the parser takes
// is counted.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "wire.h"

namespace {

size_t live_bytes = 0, peak_bytes = 0;

}  // namespace

// Every block starts with its size.
void* operator new(size_t size) {
  auto* block = static_cast<std::max_align_t*>(std::malloc(sizeof(std::max_align_t) + size));
  if (block == nullptr) throw std::bad_alloc();
  *reinterpret_cast<size_t*>(block) = size;
  live_bytes += size;
  peak_bytes = std::max(peak_bytes, live_bytes);
  return block + 1;
}

void operator delete(void* data) noexcept {
  if (data == nullptr) return;
  auto* block = static_cast<std::max_align_t*>(data) - 1;
  live_bytes -= *reinterpret_cast<size_t*>(block);
  std::free(block);
}

void operator delete(void* data, size_t) noexcept { operator delete(data); }

namespace {

using zmq_ops::MessageParser;
using zmq_ops::TensorView;

// What the parser may take: a constant for the declared tensors and the text of an error, and 12 bytes for one of the
// message, as a dimension of 4 bytes becomes a number of 8 and a part of that text. Never what a message only claims.
constexpr size_t kFixedBytes = 1024, kBytesPerByte = 12;

// Codes and item sizes from the format's description.
constexpr struct {
  int32_t code;
  int64_t item_size;
} kTypes[] = {{1, 4}, {2, 8}, {3, 4},  {4, 1},  {5, 2},   {6, 1},  {8, 8},
              {9, 8}, {10, 1}, {17, 2}, {18, 16}, {19, 2}, {22, 4}, {23, 8}};
constexpr int kNumTypes = sizeof kTypes / sizeof kTypes[0];

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t Below(uint64_t end) { return engine_() % end; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }
  uint64_t Bits() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

struct Tensor {
  int32_t code;
  std::vector<int64_t> dims;
  std::string payload;
};

template <typename T>
void Append(std::string* message, T value) {
  message->append(reinterpret_cast<const char*>(&value), sizeof value);
}

// A message for the returned codes, valid but for a rare rank of 255 or bool of another value. `fields` gets the
// offsets of its integers.
std::string MakeMessage(Random* random, std::vector<int32_t>* codes, std::vector<size_t>* fields) {
  std::string message;
  const auto field = [&](auto value) {
    fields->push_back(message.size());
    Append(&message, value);
  };
  const int count = random->Below(5);
  field(static_cast<int32_t>(count));
  for (int i = 0; i < count; ++i) {
    const auto& type = kTypes[random->Below(kNumTypes)];
    const int rank = random->OneIn(50) ? 250 + random->Below(6) : random->Below(5);
    codes->push_back(type.code);
    field(type.code);
    field(static_cast<int32_t>(rank));
    int64_t bytes = type.item_size;
    for (int d = 0; d < rank; ++d) {
      const int32_t dim = rank > 4 ? 1 : random->Below(5);
      field(dim);
      bytes *= dim;
    }
    field(bytes);
    const int values = type.code != 10 ? 256 : random->OneIn(20) ? 3 : 2;
    for (int64_t b = 0; b < bytes; ++b) message += static_cast<char>(random->Below(values));
  }
  return message;
}

// Numbers around what the reader must not believe.
int64_t Odd(Random* random) {
  static constexpr int64_t kOdd[] = {0,       1,       -1,        2,         4,          254,          255,
                                     256,     65536,   1 << 30,   INT32_MAX, INT32_MIN,  UINT32_MAX,   int64_t{1} << 32,
                                     INT64_MAX, INT64_MIN, INT64_MAX - 7, int64_t{1} << 62};
  const int64_t number = kOdd[random->Below(sizeof kOdd / sizeof kOdd[0])];
  const int64_t less = random->OneIn(4) ? random->Below(9) : 0;
  return number < 0 ? number + less : number - less;
}

void Damage(Random* random, const std::vector<size_t>& fields, std::string* message) {
  const size_t size = message->size();
  const auto write = [&](size_t at, auto value) {
    if (at >= message->size()) return;
    const size_t length = std::min(sizeof value, message->size() - at);
    message->replace(at, length, reinterpret_cast<const char*>(&value), length);
  };
  const size_t anywhere = random->Below(size + 1), field = fields[random->Below(fields.size())];
  switch (random->Below(8)) {
    case 0:  // a bit
      if (size > 0) (*message)[random->Below(size)] ^= 1 << random->Below(8);
      break;
    case 1:  // cut off
      message->resize(anywhere);
      break;
    case 2:  // a dimension, rank, code or count
      write(field, static_cast<int32_t>(Odd(random)));
      break;
    case 3:  // a payload length
      write(field, Odd(random));
      break;
    case 4:  // a number beside the true one
      if (field + 4 <= size) {
        uint32_t value;
        std::memcpy(&value, message->data() + field, sizeof value);
        write(field, static_cast<uint32_t>(value + random->Below(5) - 2));
      }
      break;
    case 5:  // bytes put in or left out
      if (random->OneIn(2)) {
        message->insert(anywhere, random->Below(17), static_cast<char>(random->Bits()));
      } else {
        message->erase(anywhere, random->Below(17));
      }
      break;
    case 6:  // a part copied elsewhere
      message->insert(anywhere, message->substr(random->Below(size + 1), random->Below(33)));
      break;
    default:
      write(anywhere, random->Bits());
  }
}

// The format as wire.py describes it, read without an eye on speed or memory. False for a message that is malformed or
// holds other dtypes.
bool ReferenceRead(const std::string& message, const std::vector<int32_t>& codes, std::vector<Tensor>* tensors) {
  size_t at = 0;
  const auto read = [&](auto* value) {
    if (message.size() - at < sizeof *value) return false;
    std::memcpy(value, message.data() + at, sizeof *value);
    at += sizeof *value;
    return true;
  };
  int32_t count;
  if (!read(&count) || count != static_cast<int64_t>(codes.size())) return false;
  for (int32_t wanted : codes) {
    Tensor tensor;
    int32_t rank;
    if (!read(&tensor.code) || tensor.code != wanted || !read(&rank) || rank < 0 || rank > 254) return false;
    bool empty = false;
    __int128 bytes = 0;
    for (const auto& type : kTypes) bytes += type.code == wanted ? type.item_size : 0;
    for (int32_t d = 0; d < rank; ++d) {
      int32_t dim;
      if (!read(&dim) || dim < 0) return false;
      tensor.dims.push_back(dim);
      empty |= dim == 0;
      if (dim > 0) bytes *= dim;
      if (bytes > INT64_MAX) return false;
    }
    int64_t length;
    if (empty) bytes = 0;
    if (!read(&length) || length != bytes || message.size() - at < static_cast<uint64_t>(length)) return false;
    tensor.payload = message.substr(at, length);
    at += length;
    const auto no_bool = [](unsigned char byte) { return byte > 1; };
    if (wanted == 10 && std::any_of(tensor.payload.begin(), tensor.payload.end(), no_bool)) return false;
    tensors->push_back(tensor);
  }
  return at == message.size();
}

bool Same(const std::vector<TensorView>& views, const std::vector<Tensor>& tensors) {
  if (views.size() != tensors.size()) return false;
  for (size_t i = 0; i < views.size(); ++i) {
    if (views[i].dtype->code != tensors[i].code || views[i].dims != tensors[i].dims ||
        std::string(views[i].payload, views[i].bytes) != tensors[i].payload) {
      return false;
    }
  }
  return true;
}

[[noreturn]] void Report(const char* what, uint64_t input, const std::string& message) {
  std::fprintf(stderr, "fuzz_wire: input %llu: %s; its %zu bytes:", static_cast<unsigned long long>(input), what,
               message.size());
  for (unsigned char byte : message) std::fprintf(stderr, " %02x", byte);
  std::fprintf(stderr, "\n");
  std::exit(1);
}

// Returns whether the message is valid.
bool Check(uint64_t input, const std::string& message, const std::vector<int32_t>& codes) {
  const std::unique_ptr<char, decltype(&std::free)> exact(static_cast<char*>(std::malloc(message.size())), &std::free);
  std::copy(message.begin(), message.end(), exact.get());
  std::vector<Tensor> expected;
  const bool valid = ReferenceRead(message, codes, &expected);

  const size_t before = live_bytes;
  peak_bytes = live_bytes;
  MessageParser parser(exact.get(), message.size());
  std::vector<TensorView> views;
  const bool accepted = parser.Parse(codes, &views);
  const size_t allowed = kFixedBytes + kBytesPerByte * message.size();
  if (peak_bytes - before > allowed) Report("takes too much memory", input, message);
  if (accepted != valid) Report(valid ? "is valid and refused" : "is malformed and accepted", input, message);
  if (accepted && !Same(views, expected)) Report("gives other tensors", input, message);
  if (!accepted && parser.error().empty()) Report("is refused without a reason", input, message);
  return valid;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: fuzz_wire SEED INPUTS\n");
    return 2;
  }
  Random random(std::strtoull(argv[1], nullptr, 10));
  const uint64_t inputs = std::strtoull(argv[2], nullptr, 10);
  uint64_t valid = 0;
  for (uint64_t input = 0; input < inputs; ++input) {
    std::vector<int32_t> codes;
    std::vector<size_t> fields;
    std::string message = MakeMessage(&random, &codes, &fields);
    for (uint64_t times = random.Below(4); times > 0; --times) Damage(&random, fields, &message);
    if (random.OneIn(50)) codes.push_back(kTypes[random.Below(kNumTypes)].code);
    valid += Check(input, message, codes);
  }
  std::printf("%llu inputs, %llu valid, %llu refused, no fault\n", static_cast<unsigned long long>(inputs),
              static_cast<unsigned long long>(valid), static_cast<unsigned long long>(inputs - valid));
}
