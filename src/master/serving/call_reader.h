#pragma once

// Reads one tool call, `{"name": "...", "arguments": {...}}`, as its bytes arrive. The arguments
// are passed on as the model wrote them, piece by piece, once the name is known; arguments that
// come before the name wait for it, and a call without any has `{}`. `parameters` is another name
// for arguments, and arguments written as a JSON string are unwrapped. Other members are skipped.
// One thread at a time.

#include <string>
#include <string_view>

namespace fathom::master {

class CallReader {
 public:
  enum class State { kReading, kDone, kBroken };

  // Reads on; `consumed` is how many bytes belonged to the call (all of them, unless it ended
  // within). A broken call never mends.
  State Push(std::string_view piece, size_t& consumed);

  State state() const { return state_; }
  // Empty until it is known.
  const std::string& name() const { return name_; }
  // What became known of the arguments since the last call. Empty while the name is not known.
  std::string TakeArguments();

 private:
  enum class Step { kOpen, kKey, kColon, kValue, kComma };
  enum class Member { kName, kArguments, kOther };

  // One byte; false when it cannot stand here.
  bool Take(char c);
  bool TakeValue(char c);
  bool EndValue();
  void EndKey();
  void Close();

  State state_ = State::kReading;
  Step step_ = Step::kOpen;
  Member member_ = Member::kOther;
  bool any_arguments_ = false;
  int depth_ = 0;  // of brackets within the value
  bool in_string_ = false;
  bool escaped_ = false;
  bool as_text_ = false;  // the arguments are a JSON string
  bool scalar_ = false;   // a number, true, false or null is being read
  std::string key_;       // raw, quotes included, while it is read
  std::string value_;     // raw, where it must be decoded whole
  std::string name_;
  std::string arguments_;  // known, not taken
};

}  // namespace fathom::master
