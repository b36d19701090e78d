#include "worker/model/json_fields.h"

#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::worker {

namespace json = boost::json;

absl::StatusOr<JsonFields> JsonFields::Parse(std::string_view text, std::string name) {
  json::error_code error;
  json::parse_options options;
  options.max_depth = 32;
  json::value root = json::parse({text.data(), text.size()}, error, {}, options);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not JSON: ", error.message()));
  }
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not a JSON object"));
  }
  return JsonFields(std::move(root.as_object()), std::move(name));
}

const json::value* JsonFields::Find(std::string_view field) const {
  const json::value* value = object_.if_contains({field.data(), field.size()});
  return value == nullptr || value->is_null() ? nullptr : value;
}

absl::Status JsonFields::Wrong(std::string_view field, std::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(name_, ": ", ToAbsl(field), ": ", ToAbsl(what)));
}

absl::Status JsonFields::NotImplemented(std::string_view field, std::string_view what) const {
  return absl::UnimplementedError(
      absl::StrCat(name_, ": ", ToAbsl(field), ": ", ToAbsl(what), " is not implemented"));
}

absl::StatusOr<std::optional<double>> JsonFields::OptionalNumber(std::string_view field) const {
  const json::value* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) return Wrong(field, "not a number");
  const auto number = value->to_number<double>();
  if (!std::isfinite(number)) return Wrong(field, "not finite");
  return number;
}

absl::StatusOr<std::optional<int64_t>> JsonFields::OptionalInt(std::string_view field,
                                                               int64_t lowest,
                                                               int64_t highest) const {
  ASSIGN_OR_RETURN(const std::optional<double> number, OptionalNumber(field));
  if (!number) return std::nullopt;
  if (*number != std::floor(*number)) return Wrong(field, "not a whole number");
  if (*number < static_cast<double>(lowest) || *number > static_cast<double>(highest)) {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": ", ToAbsl(field), ": ", *number,
                                                   " is not in [", lowest, ", ", highest, "]"));
  }
  return static_cast<int64_t>(*number);
}

absl::StatusOr<int32_t> JsonFields::Int(std::string_view field, int32_t lowest,
                                        int32_t highest) const {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, OptionalInt(field, lowest, highest));
  if (!value) return Wrong(field, "missing");
  return static_cast<int32_t>(*value);
}

absl::StatusOr<int32_t> JsonFields::IntOr(std::string_view field, int32_t fallback, int32_t lowest,
                                          int32_t highest) const {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, OptionalInt(field, lowest, highest));
  return static_cast<int32_t>(value.value_or(fallback));
}

absl::StatusOr<double> JsonFields::NumberOr(std::string_view field, double fallback) const {
  ASSIGN_OR_RETURN(const std::optional<double> number, OptionalNumber(field));
  return number.value_or(fallback);
}

absl::StatusOr<bool> JsonFields::BoolOr(std::string_view field, bool fallback) const {
  const json::value* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) return Wrong(field, "not true or false");
  return value->as_bool();
}

absl::StatusOr<std::string> JsonFields::StringOr(std::string_view field,
                                                 std::string_view fallback) const {
  const json::value* value = Find(field);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) return Wrong(field, "not a string");
  return std::string(value->as_string());
}

}  // namespace fathom::worker
