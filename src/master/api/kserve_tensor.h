#pragma once

// Tensors of the Open Inference Protocol. Whatever form a client chose, an input becomes one: its
// elements as raw bytes, little-endian, every element of BYTES after its length in 4 bytes; checked
// against datatype and shape before anything is allocated for them. Pure.

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "inference/kserve.pb.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// The protocol's name of a datatype -> the configuration's. TYPE_INVALID for an unknown one.
inference::DataType DataTypeOf(std::string_view name);
std::string_view DataTypeName(inference::DataType type);

struct KserveInput {
  std::string name;
  inference::DataType type = inference::TYPE_INVALID;
  size_t num_elements = 0;
  std::string data;
};

// The inputs of a request, in order. The contents are consumed.
absl::StatusOr<std::vector<KserveInput>> TakeInputs(inference::ModelInferRequest& request);

// Product of the dimensions; an error when one is negative or the product has no bound.
absl::StatusOr<size_t> NumElements(std::string_view name,
                                   const google::protobuf::RepeatedField<int64_t>& shape);

// Elements of a BYTES input.
absl::StatusOr<std::vector<std::string>> BytesElements(const KserveInput& input);
// Elements of an INT32 or INT64 input that are token ids.
absl::StatusOr<std::vector<TokenId>> TokenElements(const KserveInput& input);
// The single element of an input of any datatype but FP16 and BF16.
absl::StatusOr<boost::json::value> ScalarElement(const KserveInput& input);

// Appends one element that JSON spells; an error when it does not fit the datatype.
absl::Status AppendElement(std::string_view name, inference::DataType type,
                           const boost::json::value& value, std::string& data);
void AppendBytesElement(std::string_view element, std::string& data);
void AppendInt32Element(int32_t element, std::string& data);

}  // namespace fathom::master
