#pragma once

// The buckets of quotas, one row each, filled by the database's clock as they are looked at.

#include <string>

#include "absl/status/statusor.h"
#include "master/state/quota_share.h"
#include "master/state/sql_session.h"

namespace fathom::master {

struct QuotaAnswer {
  double taken = 0;
  double level = 0;
};

// Pays, gives and takes in one statement. A bucket that nobody has asked of before is full.
absl::StatusOr<QuotaAnswer> ExchangeQuota(SqlSession& session, const std::string& key_id,
                                          const std::string& kind, const QuotaRate& rate,
                                          const QuotaExchange& exchange);

}  // namespace fathom::master
