#pragma once

// The members of a client's JSON that say how to sample and when to stop: the same names, bounds
// and defaults in every dialect that has them. Pure; any thread.

#include "master/api/fields.h"
#include "master/models/catalog.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

inline constexpr int32_t kTokensMax = 1 << 26;

// temperature, top_p, top_k, min_p, the penalties, seed. What is absent has the model's default.
void ReadSampling(Fields& fields, const SamplingDefaults& defaults, GenerationRequest& request);

// min_tokens, ignore_eos, stop (a text or a list of them).
void ReadStop(Fields& fields, GenerationRequest& request);

}  // namespace fathom::master
