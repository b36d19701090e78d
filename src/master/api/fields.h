#pragma once

// Reads the fields of a client's JSON object, strictly: wrong types and numbers out of range are
// errors that name the field. The first error sticks; absent and null fields leave the target
// alone. Afterwards CheckUnread refuses what nobody asked for. One thread.

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fathom::master {

// Parses a whole body: an object, bounded in depth, valid UTF-8.
absl::StatusOr<boost::json::object> ParseJsonObject(std::string_view text);

class Fields {
 public:
  // `prefix` stands before the names in errors ("stream_options.").
  explicit Fields(const boost::json::object& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  // Null when absent or null. Marks the field as read.
  const boost::json::value* Find(std::string_view name);

  // True when the field was there and good. Bounds are inclusive.
  bool Read(std::string_view name, float low, float high, float& out);
  bool Read(std::string_view name, int64_t low, int64_t high, int32_t& out);
  bool Read(std::string_view name, bool& out);
  bool Read(std::string_view name, size_t bytes_max, std::string& out);
  // Any 64-bit number; negative ones by their bits.
  bool Read(std::string_view name, std::optional<uint64_t>& out);
  // Null unless it is there and an object (an array).
  const boost::json::object* Object(std::string_view name);
  const boost::json::array* Array(std::string_view name);
  // Read and forgotten.
  void Ignore(std::initializer_list<std::string_view> names);
  // Refused, with the reason, if present and not null.
  void Refuse(std::string_view name, std::string_view reason);

  void Fail(std::string_view name, std::string_view message);
  // Fails for the first field that nobody read.
  void CheckUnread();
  void Keep(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  const boost::json::object& object_;
  const std::string prefix_;
  std::set<std::string, std::less<>> read_;
  absl::Status status_;
};

}  // namespace fathom::master
