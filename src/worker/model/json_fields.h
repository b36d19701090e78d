#pragma once

// Typed access to the fields of one JSON object; every error names the object and the field. A
// field that is null counts as absent.

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fathom::worker {

class JsonFields {
 public:
  // Parses a whole document whose root is an object. `name` is what errors call it.
  static absl::StatusOr<JsonFields> Parse(std::string_view text, std::string name);
  JsonFields(boost::json::object object, std::string name)
      : object_(std::move(object)), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  const boost::json::object& object() const { return object_; }
  // Null when absent.
  const boost::json::value* Find(std::string_view field) const;
  bool Has(std::string_view field) const { return Find(field) != nullptr; }

  absl::StatusOr<std::optional<int64_t>> OptionalInt(std::string_view field, int64_t lowest,
                                                     int64_t highest) const;
  absl::StatusOr<std::optional<double>> OptionalNumber(std::string_view field) const;
  absl::StatusOr<int32_t> Int(std::string_view field, int32_t lowest, int32_t highest) const;
  absl::StatusOr<int32_t> IntOr(std::string_view field, int32_t fallback, int32_t lowest,
                                int32_t highest) const;
  absl::StatusOr<double> NumberOr(std::string_view field, double fallback) const;
  absl::StatusOr<bool> BoolOr(std::string_view field, bool fallback) const;
  absl::StatusOr<std::string> StringOr(std::string_view field, std::string_view fallback) const;

  absl::Status Wrong(std::string_view field, std::string_view what) const;
  absl::Status NotImplemented(std::string_view field, std::string_view what) const;

 private:
  boost::json::object object_;
  std::string name_;
};

}  // namespace fathom::worker
