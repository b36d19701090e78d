#include "master/api/kserve_tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/json/string.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;
using inference::DataType;

static_assert(std::endian::native == std::endian::little, "elements are copied as they lie");

constexpr size_t kRankMax = 8;
constexpr size_t kElementsMax = size_t{1} << 26;
constexpr size_t kInputsMax = 64;
constexpr size_t kShownNameBytesMax = 64;

// By value of the enum.
constexpr std::array<std::string_view, 15> kNames = {"",       "BOOL", "UINT8", "UINT16", "UINT32",
                                                     "UINT64", "INT8", "INT16", "INT32",  "INT64",
                                                     "FP16",   "FP32", "FP64",  "BYTES",  "BF16"};
constexpr std::array<size_t, 15> kSizes = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};

absl::Status Bad(std::string_view name, std::string_view message) {
  const std::string shown(name.substr(0, kShownNameBytesMax));
  return BadField(shown, absl::StrCat("input '", shown, "': ", ToAbsl(message)));
}

template <typename T>
void AppendValue(T value, std::string& data) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  data.append(bytes, sizeof value);
}

template <typename T>
T ValueAt(const std::string& data, size_t index) {
  T value;
  std::memcpy(&value, data.data() + index * sizeof value, sizeof value);
  return value;
}

// Calls `use` with a value of the C++ type of a datatype. BYTES and the half floats have none.
template <typename Use>
absl::Status WithType(std::string_view name, DataType type, Use use) {
  switch (type) {
    case inference::TYPE_BOOL:
    case inference::TYPE_UINT8:
      return use(uint8_t{});
    case inference::TYPE_UINT16:
      return use(uint16_t{});
    case inference::TYPE_UINT32:
      return use(uint32_t{});
    case inference::TYPE_UINT64:
      return use(uint64_t{});
    case inference::TYPE_INT8:
      return use(int8_t{});
    case inference::TYPE_INT16:
      return use(int16_t{});
    case inference::TYPE_INT32:
      return use(int32_t{});
    case inference::TYPE_INT64:
      return use(int64_t{});
    case inference::TYPE_FP32:
      return use(float{});
    case inference::TYPE_FP64:
      return use(double{});
    default:
      return Bad(name, absl::StrCat("datatype ", ToAbsl(DataTypeName(type)), " is not read here"));
  }
}

// Appends numbers, narrowed to the datatype where they fit.
template <typename List>
absl::Status AppendNumbers(std::string_view name, DataType type, const List& list,
                           std::string& data) {
  return WithType(name, type, [&](auto sample) -> absl::Status {
    using To = decltype(sample);
    for (const auto value : list) {
      if constexpr (std::is_integral_v<To> && std::is_integral_v<std::decay_t<decltype(value)>>) {
        if (!std::in_range<To>(value)) {
          return Bad(name, absl::StrCat(value, " does not fit ", ToAbsl(DataTypeName(type))));
        }
      }
      AppendValue(static_cast<To>(value), data);
    }
    return absl::OkStatus();
  });
}

// The typed contents as raw bytes. Only the field that belongs to the datatype may be set.
absl::StatusOr<std::string> RawOf(std::string_view name, DataType type,
                                  const inference::InferTensorContents& in) {
  std::string data;
  absl::Status status;
  int num_used = 0;
  switch (type) {
    case inference::TYPE_BOOL:
      num_used = in.bool_contents_size();
      for (const bool value : in.bool_contents()) data += static_cast<char>(value);
      break;
    case inference::TYPE_INT8:
    case inference::TYPE_INT16:
    case inference::TYPE_INT32:
      num_used = in.int_contents_size();
      status = AppendNumbers(name, type, in.int_contents(), data);
      break;
    case inference::TYPE_INT64:
      num_used = in.int64_contents_size();
      status = AppendNumbers(name, type, in.int64_contents(), data);
      break;
    case inference::TYPE_UINT8:
    case inference::TYPE_UINT16:
    case inference::TYPE_UINT32:
      num_used = in.uint_contents_size();
      status = AppendNumbers(name, type, in.uint_contents(), data);
      break;
    case inference::TYPE_UINT64:
      num_used = in.uint64_contents_size();
      status = AppendNumbers(name, type, in.uint64_contents(), data);
      break;
    case inference::TYPE_FP32:
      num_used = in.fp32_contents_size();
      status = AppendNumbers(name, type, in.fp32_contents(), data);
      break;
    case inference::TYPE_FP64:
      num_used = in.fp64_contents_size();
      status = AppendNumbers(name, type, in.fp64_contents(), data);
      break;
    case inference::TYPE_STRING:
      num_used = in.bytes_contents_size();
      for (const std::string& element : in.bytes_contents()) AppendBytesElement(element, data);
      break;
    default:
      return Bad(name, absl::StrCat("datatype ", ToAbsl(DataTypeName(type)),
                                    " has no typed contents; use raw_input_contents"));
  }
  RETURN_IF_ERROR(status);
  const int num_all = in.bool_contents_size() + in.int_contents_size() + in.int64_contents_size() +
                      in.uint_contents_size() + in.uint64_contents_size() +
                      in.fp32_contents_size() + in.fp64_contents_size() + in.bytes_contents_size();
  if (num_used != num_all) {
    return Bad(name, absl::StrCat("contents hold elements of another datatype than ",
                                  ToAbsl(DataTypeName(type))));
  }
  return data;
}

absl::Status CheckSize(const KserveInput& input) {
  if (input.type != inference::TYPE_STRING) {
    const size_t wanted = input.num_elements * kSizes[input.type];
    if (input.data.size() == wanted) return absl::OkStatus();
    return Bad(input.name,
               absl::StrCat("its shape needs ", wanted, " bytes and ", input.data.size(), " came"));
  }
  size_t at = 0;
  size_t num_elements = 0;
  while (at < input.data.size()) {
    uint32_t length = 0;
    if (input.data.size() - at < sizeof length) return Bad(input.name, "an element is cut short");
    std::memcpy(&length, input.data.data() + at, sizeof length);
    at += sizeof length;
    if (input.data.size() - at < length) return Bad(input.name, "an element is cut short");
    at += length;
    ++num_elements;
  }
  if (num_elements == input.num_elements) return absl::OkStatus();
  return Bad(input.name, absl::StrCat("its shape needs ", input.num_elements, " elements and ",
                                      num_elements, " came"));
}

// A whole number that JSON spells as an integer.
std::optional<int64_t> Signed(const json::value& value) {
  if (value.is_int64()) return value.as_int64();
  return std::nullopt;
}
std::optional<uint64_t> Unsigned(const json::value& value) {
  if (value.is_uint64()) return value.as_uint64();
  if (value.is_int64() && value.as_int64() >= 0) return static_cast<uint64_t>(value.as_int64());
  return std::nullopt;
}

template <typename To>
bool AppendNumber(const json::value& value, std::string& data) {
  if constexpr (std::is_floating_point_v<To>) {
    if (!value.is_number()) return false;
    AppendValue(static_cast<To>(value.to_number<double>()), data);
    return true;
  } else if constexpr (std::is_signed_v<To>) {
    const std::optional<int64_t> number = Signed(value);
    if (!number || *number < std::numeric_limits<To>::min() ||
        *number > std::numeric_limits<To>::max()) {
      return false;
    }
    AppendValue(static_cast<To>(*number), data);
    return true;
  } else {
    const std::optional<uint64_t> number = Unsigned(value);
    if (!number || *number > std::numeric_limits<To>::max()) return false;
    AppendValue(static_cast<To>(*number), data);
    return true;
  }
}

}  // namespace

DataType DataTypeOf(std::string_view name) {
  const auto found = std::find(kNames.begin() + 1, kNames.end(), name);
  return found == kNames.end() ? inference::TYPE_INVALID
                               : static_cast<DataType>(found - kNames.begin());
}

std::string_view DataTypeName(DataType type) { return kNames[type]; }

absl::StatusOr<size_t> NumElements(std::string_view name,
                                   const google::protobuf::RepeatedField<int64_t>& shape) {
  if (static_cast<size_t>(shape.size()) > kRankMax) {
    return Bad(name, absl::StrCat("has more than ", kRankMax, " dimensions"));
  }
  size_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0) return Bad(name, absl::StrCat("dimension ", size, " is negative"));
    if (static_cast<uint64_t>(size) > kElementsMax) return Bad(name, "its shape is too large");
    count *= static_cast<size_t>(size);  // below 2^52, whatever came before
    if (count > kElementsMax) return Bad(name, "its shape is too large");
  }
  return count;
}

absl::StatusOr<std::vector<KserveInput>> TakeInputs(inference::ModelInferRequest& request) {
  const bool raw = request.raw_input_contents_size() > 0;
  if (static_cast<size_t>(request.inputs_size()) > kInputsMax) {
    return BadField("inputs", absl::StrCat("at most ", kInputsMax, " inputs"));
  }
  if (raw && request.raw_input_contents_size() != request.inputs_size()) {
    return BadField("raw_input_contents",
                    absl::StrCat("raw_input_contents has ", request.raw_input_contents_size(),
                                 " entries for ", request.inputs_size(), " inputs"));
  }
  std::vector<KserveInput> inputs;
  inputs.reserve(request.inputs_size());
  for (int i = 0; i < request.inputs_size(); ++i) {
    auto& tensor = *request.mutable_inputs(i);
    for (const auto& [name, value] : tensor.parameters()) {
      return Bad(tensor.name(), absl::StrCat("parameter '", name.substr(0, kShownNameBytesMax),
                                             "' is not known here"));
    }
    KserveInput input;
    input.name = std::move(*tensor.mutable_name());
    input.type = DataTypeOf(tensor.datatype());
    if (input.type == inference::TYPE_INVALID) {
      return Bad(input.name,
                 absl::StrCat("datatype '", tensor.datatype().substr(0, kShownNameBytesMax),
                              "' does not exist"));
    }
    ASSIGN_OR_RETURN(input.num_elements, NumElements(input.name, tensor.shape()));
    if (raw && tensor.has_contents()) {
      return Bad(input.name, "has contents although raw_input_contents is used");
    }
    if (raw) {
      input.data = std::move(*request.mutable_raw_input_contents(i));
    } else {
      ASSIGN_OR_RETURN(input.data, RawOf(input.name, input.type, tensor.contents()));
    }
    RETURN_IF_ERROR(CheckSize(input));
    for (const KserveInput& other : inputs) {
      if (other.name == input.name) return Bad(input.name, "comes twice");
    }
    inputs.push_back(std::move(input));
  }
  return inputs;
}

absl::StatusOr<std::vector<std::string>> BytesElements(const KserveInput& input) {
  if (input.type != inference::TYPE_STRING) return Bad(input.name, "its datatype must be BYTES");
  std::vector<std::string> elements;
  size_t at = 0;
  while (at < input.data.size()) {
    uint32_t length = 0;
    std::memcpy(&length, input.data.data() + at, sizeof length);
    at += sizeof length;
    elements.push_back(input.data.substr(at, length));
    at += length;
  }
  return elements;
}

absl::StatusOr<std::vector<TokenId>> TokenElements(const KserveInput& input) {
  if (input.type != inference::TYPE_INT32 && input.type != inference::TYPE_INT64) {
    return Bad(input.name, "its datatype must be INT32 or INT64");
  }
  std::vector<TokenId> ids;
  ids.reserve(input.num_elements);
  for (size_t i = 0; i < input.num_elements; ++i) {
    const int64_t id = input.type == inference::TYPE_INT32 ? ValueAt<int32_t>(input.data, i)
                                                           : ValueAt<int64_t>(input.data, i);
    if (id < 0 || id > std::numeric_limits<TokenId>::max()) {
      return Bad(input.name, absl::StrCat(id, " is no token id"));
    }
    ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

absl::StatusOr<json::value> ScalarElement(const KserveInput& input) {
  if (input.num_elements != 1) return Bad(input.name, "must have one element");
  if (input.type == inference::TYPE_STRING) {
    ASSIGN_OR_RETURN(const std::vector<std::string> elements, BytesElements(input));
    return json::value(json::string(elements.front()));
  }
  if (input.type == inference::TYPE_BOOL) return json::value(input.data.front() != 0);
  json::value out;
  RETURN_IF_ERROR(WithType(input.name, input.type, [&](auto sample) {
    out = ValueAt<decltype(sample)>(input.data, 0);
    return absl::OkStatus();
  }));
  return out;
}

absl::Status AppendElement(std::string_view name, DataType type, const json::value& value,
                           std::string& data) {
  if (type == inference::TYPE_STRING) {
    if (!value.is_string()) return Bad(name, "its elements must be strings");
    AppendBytesElement({value.as_string().data(), value.as_string().size()}, data);
    return absl::OkStatus();
  }
  if (type == inference::TYPE_BOOL) {
    if (!value.is_bool()) return Bad(name, "its elements must be true or false");
    data += static_cast<char>(value.as_bool());
    return absl::OkStatus();
  }
  return WithType(name, type, [&](auto sample) {
    if (AppendNumber<decltype(sample)>(value, data)) return absl::OkStatus();
    return Bad(name, absl::StrCat("an element is no ", ToAbsl(DataTypeName(type))));
  });
}

void AppendBytesElement(std::string_view element, std::string& data) {
  AppendValue(static_cast<uint32_t>(element.size()), data);
  data += element;
}

void AppendInt32Element(int32_t element, std::string& data) { AppendValue(element, data); }

}  // namespace fathom::master
