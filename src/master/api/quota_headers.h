#pragma once

// The headers in which OpenAI's clients look for what is left of their key's quotas:
// x-ratelimit-{limit,remaining,reset}-{requests,tokens}, as this master knows it.

#include "master/api/http_exchange.h"
#include "master/identity/principal.h"
#include "master/state/quotas.h"

namespace fathom::master {

// Nothing where there are no quotas.
void AddQuotaHeaders(Quotas* quotas, const Principal& principal, HttpReply& reply);

}  // namespace fathom::master
