#include "fuzz/frames.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "common/check.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t size_max);

namespace fathom::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

constexpr std::string_view kMark = "--- ";
constexpr size_t kHeadBytes = 3;
constexpr size_t kFrameBytesMax = 0xFFFF;
constexpr size_t kFramesMax = 64;
// Without libFuzzer nothing is read but seeds, which say what they are meant to.
#ifdef FATHOM_FUZZ_SEEDS_ALONE
constexpr bool kSeedsAlone = true;
#else
constexpr bool kSeedsAlone = false;
#endif
constexpr double kAwkward[] = {0,   -1,   1,    2, 255, 1e3, 1e9, 2147483647, -2147483648.0,
                               4e9, 9e18, -9e18};

class NoWords final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int, google::protobuf::io::ColumnNumber, const std::string&) override {}
};

template <typename T>
T Saturated(double value) {
  if (value >= static_cast<double>(std::numeric_limits<T>::max()))
    return std::numeric_limits<T>::max();
  if (value <= static_cast<double>(std::numeric_limits<T>::min()))
    return std::numeric_limits<T>::min();
  return static_cast<T>(value);
}

// Sets some number of the message, or of one within it, to a value at an edge.
void SetSomeNumber(Message& message, std::minstd_rand& random) {
  const auto* reflection = message.GetReflection();
  const auto* descriptor = message.GetDescriptor();
  if (descriptor->field_count() == 0) return;
  const FieldDescriptor* field =
      descriptor->field(static_cast<int>(random() % descriptor->field_count()));
  const double value = kAwkward[random() % std::size(kAwkward)];
  const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 0;
  if (field->is_map() || (field->is_repeated() && count == 0)) return;
  const int at = count > 0 ? static_cast<int>(random() % count) : 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return SetSomeNumber(field->is_repeated()
                               ? *reflection->MutableRepeatedMessage(&message, field, at)
                               : *reflection->MutableMessage(&message, field),
                           random);
    case FieldDescriptor::CPPTYPE_INT32:
      return field->is_repeated()
                 ? reflection->SetRepeatedInt32(&message, field, at, Saturated<int32_t>(value))
                 : reflection->SetInt32(&message, field, Saturated<int32_t>(value));
    case FieldDescriptor::CPPTYPE_INT64:
      return field->is_repeated()
                 ? reflection->SetRepeatedInt64(&message, field, at, Saturated<int64_t>(value))
                 : reflection->SetInt64(&message, field, Saturated<int64_t>(value));
    case FieldDescriptor::CPPTYPE_UINT32:
      return field->is_repeated()
                 ? void()
                 : reflection->SetUInt32(&message, field, Saturated<uint32_t>(value));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return field->is_repeated()
                 ? void()
                 : reflection->SetFloat(&message, field, static_cast<float>(value));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return field->is_repeated() ? void() : reflection->SetDouble(&message, field, value);
    default:
      return;
  }
}

// A mutation of the bytes of one message, when the result is still one.
void MutateBytes(Message& message) {
  std::string bytes = message.SerializePartialAsString();
  const size_t size = bytes.size();
  bytes.resize(size + 64);
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, bytes.size()));
  std::unique_ptr<Message> mutated(message.New());
  if (mutated->ParsePartialFromString(bytes)) message.CopyFrom(*mutated);
}

Frame Copy(const Frame& frame) {
  std::unique_ptr<Message> message(frame.message->New());
  message->CopyFrom(*frame.message);
  return {frame.kind, std::move(message)};
}

}  // namespace

std::vector<Frame> Frames::Read(const uint8_t* data, size_t size) const {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  return input.starts_with(kMark) ? ReadText(input) : ReadBytes(input);
}

std::vector<Frame> Frames::ReadText(std::string_view text) const {
  std::vector<Frame> frames;
  while (text.starts_with(kMark)) {
    text.remove_prefix(kMark.size());
    const std::string_view name = text.substr(0, text.find('\n'));
    const size_t next = text.find("\n--- ");
    const std::string_view frame =
        text.substr(std::min(name.size(), text.size()), next - name.size());
    text = next == std::string_view::npos ? std::string_view() : text.substr(next + 1);
    const auto kind =
        std::find_if(kinds_.begin(), kinds_.end(), [&](const Kind& k) { return k.name == name; });
    FATHOM_CHECK(!kSeedsAlone || kind != kinds_.end(), "a seed of a kind that there is not");
    if (kind == kinds_.end()) continue;
    std::unique_ptr<Message> message(kind->prototype->New());
    NoWords no_words;
    TextFormat::Parser parser;
    parser.RecordErrorsTo(&no_words);
    const bool parsed = parser.ParseFromString(std::string(frame), message.get());
    FATHOM_CHECK(!kSeedsAlone || parsed, "a seed with fields that there are not");
    if (!parsed) continue;
    frames.push_back({static_cast<size_t>(kind - kinds_.begin()), std::move(message)});
  }
  return frames;
}

std::vector<Frame> Frames::ReadBytes(std::string_view bytes) const {
  std::vector<Frame> frames;
  while (bytes.size() >= kHeadBytes && frames.size() < kFramesMax) {
    const size_t kind = static_cast<unsigned char>(bytes[0]) % kinds_.size();
    uint16_t length = 0;
    std::memcpy(&length, bytes.data() + 1, sizeof length);
    bytes.remove_prefix(kHeadBytes);
    const std::string_view frame = bytes.substr(0, length);
    bytes.remove_prefix(frame.size());
    std::unique_ptr<Message> message(kinds_[kind].prototype->New());
    if (!message->ParseFromArray(frame.data(), static_cast<int>(frame.size()))) continue;
    frames.push_back({kind, std::move(message)});
  }
  return frames;
}

std::string Frames::Write(const std::vector<Frame>& frames) {
  std::string out;
  for (const Frame& frame : frames) {
    const std::string bytes = frame.message->SerializePartialAsString();
    if (bytes.size() > kFrameBytesMax) continue;
    const auto length = static_cast<uint16_t>(bytes.size());
    out += static_cast<char>(frame.kind);
    out.append(reinterpret_cast<const char*>(&length), sizeof length);
    out += bytes;
  }
  return out;
}

size_t Frames::Mutate(uint8_t* data, size_t size, size_t size_max, unsigned seed) const {
  std::minstd_rand random(seed + 1);
  std::vector<Frame> frames = Read(data, size);
  if (frames.empty()) return LLVMFuzzerMutate(data, size, size_max);
  for (auto edits = 1 + random() % 3; edits > 0 && !frames.empty(); --edits) {
    const size_t at = random() % frames.size();
    switch (random() % 8) {
      case 0:
        frames.insert(frames.begin() + static_cast<ptrdiff_t>(random() % (frames.size() + 1)),
                      Copy(frames[at]));
        break;
      case 1:
        std::swap(frames[at], frames[random() % frames.size()]);
        break;
      case 2:
        if (frames.size() > 1) frames.erase(frames.begin() + static_cast<ptrdiff_t>(at));
        break;
      case 3:
      case 4:
        SetSomeNumber(*frames[at].message, random);
        break;
      default:
        MutateBytes(*frames[at].message);
    }
  }
  const std::string out = Write(frames);
  if (out.size() > size_max) return LLVMFuzzerMutate(data, size, size_max);
  std::copy(out.begin(), out.end(), data);
  return out.size();
}

}  // namespace fathom::fuzz
