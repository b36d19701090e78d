#include "master/serving/call_reader.h"

#include <boost/json/parse.hpp>
#include <optional>
#include <utility>

namespace fathom::master {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Of a number, true, false or null.
bool IsScalar(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == 'E' || c == '-' || c == '+' ||
         c == '.';
}

// Nothing when `raw`, quotes included, is no JSON string.
std::optional<std::string> DecodeString(std::string_view raw) {
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse({raw.data(), raw.size()}, error);
  if (error || !value.is_string()) return std::nullopt;
  return std::string(value.as_string());
}

}  // namespace

CallReader::State CallReader::Push(std::string_view piece, size_t& consumed) {
  consumed = 0;
  while (state_ == State::kReading && consumed < piece.size()) {
    if (!Take(piece[consumed++])) state_ = State::kBroken;
  }
  return state_;
}

std::string CallReader::TakeArguments() {
  return name_.empty() ? std::string() : std::exchange(arguments_, {});
}

bool CallReader::Take(char c) {
  if (step_ == Step::kValue) return TakeValue(c);
  if (step_ == Step::kKey && in_string_) {
    key_ += c;
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
      EndKey();
    }
    return true;
  }
  if (IsSpace(c)) return true;
  switch (step_) {
    case Step::kOpen:
      step_ = Step::kKey;
      return c == '{';
    case Step::kKey:
      key_ = '"';
      in_string_ = true;
      return c == '"';
    case Step::kColon:
      step_ = Step::kValue;
      value_.clear();
      depth_ = 0;
      as_text_ = scalar_ = false;
      return c == ':';
    default:
      if (c == '}') Close();
      if (c == ',') step_ = Step::kKey;
      return c == '}' || c == ',';
  }
}

void CallReader::EndKey() {
  step_ = Step::kColon;
  const std::string key = DecodeString(key_).value_or("");
  const bool arguments = key == "arguments" || key == "parameters";
  member_ = Member::kOther;
  // The first of its name counts.
  if (key == "name" && name_.empty()) member_ = Member::kName;
  if (arguments && !std::exchange(any_arguments_, true)) member_ = Member::kArguments;
}

void CallReader::Close() {
  state_ = name_.empty() ? State::kBroken : State::kDone;
  if (!std::exchange(any_arguments_, true)) arguments_ = "{}";
}

bool CallReader::TakeValue(char c) {
  const bool begins = depth_ == 0 && !in_string_ && !scalar_;
  if (begins && IsSpace(c)) return true;
  if (begins && c == '"') as_text_ = true;
  // Strings are decoded whole, arguments that are none are passed on as they come.
  const auto keep = [&](char byte) {
    if (as_text_) {
      value_ += byte;
    } else if (member_ == Member::kArguments) {
      arguments_ += byte;
    }
  };
  if (in_string_) {
    keep(c);
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
      if (depth_ == 0) return EndValue();
    }
    return true;
  }
  const bool closes = c == '}' || c == ']';
  if (scalar_ && (closes || c == ',' || IsSpace(c))) {
    return EndValue() && (IsSpace(c) || Take(c));
  }
  keep(c);
  if (c == '"') {
    in_string_ = true;
    return !scalar_;
  }
  if (c == '{' || c == '[') {
    ++depth_;
    return !scalar_;
  }
  if (closes) return depth_ > 0 && (--depth_ > 0 || EndValue());
  if (depth_ > 0) return true;
  scalar_ = true;
  return IsScalar(c);
}

bool CallReader::EndValue() {
  step_ = Step::kComma;
  scalar_ = false;
  if (member_ == Member::kOther) return true;
  if (!as_text_) return member_ == Member::kArguments;
  std::optional<std::string> text = DecodeString(value_);
  if (!text) return false;
  if (member_ == Member::kArguments) {
    arguments_ += *text;
    return true;
  }
  name_ = *std::move(text);
  return !name_.empty();
}

}  // namespace fathom::master
