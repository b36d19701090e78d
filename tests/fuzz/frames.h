#pragma once

// A sequence of protobuf messages as one fuzzer's input, in one of two forms: text for people,
//
//   --- control
//   hello { worker_id: "w1" }
//   --- data
//   accepted { request_id: "r1" attempt: 1 }
//
// which seeds are written in, and bytes, which the fuzzer mutates: for each message its kind, its
// length in two bytes and its wire form. Text turns into bytes with its first mutation.

#include <google/protobuf/message.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace fathom::fuzz {

struct Frame {
  size_t kind = 0;  // index into the kinds
  std::unique_ptr<google::protobuf::Message> message;
};

class Frames {
 public:
  struct Kind {
    std::string_view name;
    const google::protobuf::Message* prototype;
  };
  explicit Frames(std::vector<Kind> kinds) : kinds_(std::move(kinds)) {}

  // What parses; the rest is left out, for decoding is not ours.
  std::vector<Frame> Read(const uint8_t* data, size_t size) const;
  // For LLVMFuzzerCustomMutator.
  size_t Mutate(uint8_t* data, size_t size, size_t size_max, unsigned seed) const;

 private:
  std::vector<Frame> ReadText(std::string_view text) const;
  std::vector<Frame> ReadBytes(std::string_view bytes) const;
  static std::string Write(const std::vector<Frame>& frames);

  const std::vector<Kind> kinds_;
};

}  // namespace fathom::fuzz
