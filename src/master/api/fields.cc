#include "master/api/fields.h"

#include <boost/json/parse.hpp>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kDepthMax = 64;
constexpr size_t kShownNameBytesMax = 64;

json::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// A whole number, also one spelled 5.0 or 5e3.
std::optional<int64_t> WholeNumber(const json::value& value) {
  if (value.is_int64()) return value.as_int64();
  if (value.is_double()) {
    const double number = value.as_double();
    if (std::nearbyint(number) == number && std::fabs(number) < 9e15) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<json::object> ParseJsonObject(std::string_view text) {
  json::parse_options options;
  options.max_depth = kDepthMax;
  boost::system::error_code error;
  json::value value = json::parse(View(text), error, {}, options);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is not valid JSON: ", error.message()));
  }
  if (!value.is_object()) return absl::InvalidArgumentError("the body is not a JSON object");
  return std::move(value.as_object());
}

const json::value* Fields::Find(std::string_view name) {
  read_.emplace(name);
  const json::value* value = object_.if_contains(View(name));
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool Fields::Read(std::string_view name, float low, float high, float& out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_number()) {
    Fail(name, "must be a number");
    return false;
  }
  const auto number = value->to_number<double>();
  if (!(number >= low && number <= high)) {
    const bool bounded = high < std::numeric_limits<float>::max();
    Fail(name, bounded ? absl::StrCat("must be between ", low, " and ", high)
                       : absl::StrCat("must be at least ", low));
    return false;
  }
  out = static_cast<float>(number);
  return true;
}

bool Fields::Read(std::string_view name, int64_t low, int64_t high, int32_t& out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  const std::optional<int64_t> number = WholeNumber(*value);
  if (!number && !value->is_uint64()) {
    Fail(name, "must be an integer");
    return false;
  }
  if (!number || *number < low || *number > high) {
    Fail(name, absl::StrCat("must be between ", low, " and ", high));
    return false;
  }
  out = static_cast<int32_t>(*number);
  return true;
}

bool Fields::Read(std::string_view name, bool& out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_bool()) {
    Fail(name, "must be true or false");
    return false;
  }
  out = value->as_bool();
  return true;
}

bool Fields::Read(std::string_view name, size_t bytes_max, std::string& out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_string()) {
    Fail(name, "must be a string");
    return false;
  }
  const json::string& text = value->as_string();
  if (text.size() > bytes_max) {
    Fail(name, absl::StrCat("must not have more than ", bytes_max, " bytes"));
    return false;
  }
  out.assign(text.data(), text.size());
  return true;
}

bool Fields::Read(std::string_view name, std::optional<uint64_t>& out) {
  const json::value* value = Find(name);
  if (value == nullptr) return false;
  if (value->is_uint64()) {
    out = value->as_uint64();
    return true;
  }
  const std::optional<int64_t> number = WholeNumber(*value);
  if (!number) {
    Fail(name, "must be an integer of 64 bits");
    return false;
  }
  out = static_cast<uint64_t>(*number);
  return true;
}

const json::object* Fields::Object(std::string_view name) {
  const json::value* value = Find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) Fail(name, "must be an object");
  return value->if_object();
}

const json::array* Fields::Array(std::string_view name) {
  const json::value* value = Find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) Fail(name, "must be an array");
  return value->if_array();
}

void Fields::Ignore(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) read_.emplace(name);
}

void Fields::Refuse(std::string_view name, std::string_view reason) {
  if (Find(name) != nullptr) Fail(name, reason);
}

void Fields::Fail(std::string_view name, std::string_view message) {
  const std::string full = absl::StrCat(prefix_, ToAbsl(name));
  Keep(BadField(full, absl::StrCat("'", full, "': ", ToAbsl(message))));
}

void Fields::CheckUnread() {
  for (const json::key_value_pair& member : object_) {
    const std::string_view name(member.key().data(), member.key().size());
    if (!read_.contains(name)) {
      return Fail(name.substr(0, kShownNameBytesMax), "is not a parameter of this endpoint");
    }
  }
}

}  // namespace fathom::master
