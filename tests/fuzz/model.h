#pragma once

// The model that targets of the master's dialects serve: a real tokenizer and a template that shows
// all a chat has.

#include "master/models/catalog.h"

namespace fathom::fuzz {

// One model, "m", that reasons and calls tools.
const master::Catalog& TestCatalog();

// The tokenizer `name` of tests/golden/text; ends the program when it cannot be read.
std::shared_ptr<const text::Tokenizer> GoldenTokenizer(const std::string& name);

}  // namespace fathom::fuzz
