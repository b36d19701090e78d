#pragma once

// One master's part of one key's budget, and what it knows of the rest. The budget is a bucket in
// the database that fills at the quota's rate; masters lease parts of it for about a second and
// spend them without asking. A share may go below zero: what it spends ahead, and what an answer
// turns out to cost, it owes the bucket. Pure, but for the time that is handed in. Not thread safe.
//
// Invariant: what all masters admit in any time is at most what the bucket held and what flowed in,
// plus one request of each master (the one that took its share below zero).

#include <cstdint>

namespace fathom::master {

// A quota as an endless stream.
struct QuotaRate {
  double per_second = 0;
  double burst = 1;  // what the bucket holds at most
};

// A minute's quota: two seconds of it may come at once, so that a minute holds hardly more than it
// should.
QuotaRate RateOf(int64_t per_minute);

// What a master asks of the bucket in one statement.
struct QuotaExchange {
  double debt = 0;  // was spent ahead: taken whatever the bucket holds
  double give = 0;  // is not needed any more
  double want = 0;  // as much of it as there is
};

class QuotaShare {
 public:
  QuotaShare(QuotaRate rate, int64_t now_ns) : rate_(rate), exchanged_ns_(now_ns) {}

  // Whether a request may come in. `masters`: that live, this one included. One that goes on with
  // what it has begun may also where the bucket is some bursts short.
  bool Admits(int64_t now_ns, int masters, bool goes_on = false);
  // It came in; or a part of what it reserved is not needed (negative).
  void Charge(double cost);
  // It was turned away.
  void Refuse(double cost);
  // When to come again.
  double SecondsUntilMore(int64_t now_ns) const;
  // Of the whole budget, as far as this master knows.
  double Remaining(int64_t now_ns) const;
  double SecondsUntilFull(int64_t now_ns) const;

  // Time to ask the database.
  bool IsDue(int64_t now_ns) const;
  QuotaExchange Prepare(int64_t now_ns);
  // What came of it: `taken` of what was wanted, and what the bucket holds since.
  void Apply(const QuotaExchange& exchange, double taken, double level, int64_t now_ns);
  // The database is away, or late with its answer, which may still be applied: the share goes on as
  // if it was given what it was given last.
  void Fail(int64_t now_ns, int masters);

  // Nothing is known that a fresh share would not assume.
  bool IsIdle(int64_t now_ns) const;

 private:
  double Projected(int64_t now_ns) const;
  void RefillBlindly(int64_t now_ns);
  double MostBorrowed() const;
  void Borrow(double more);

  const QuotaRate rate_;
  double balance_ = 0;       // leased and not spent
  double demand_ = 0;        // asked for since the last exchange, refused or not
  bool refused_ = false;     // anything since then
  double wanted_rate_ = 0;   // demand a second, smoothed
  double granted_rate_ = 0;  // spent a second, smoothed
  int unasked_ = 0;          // exchanges in a row without demand
  double spent_ = 0;         // since the last exchange
  bool told_ = false;        // level_ is known
  double level_ = 0;         // of the bucket, as told at told_ns_
  int64_t told_ns_ = 0;
  int64_t exchanged_ns_ = 0;  // the last that was tried
  bool blind_ = false;        // the database is away
  double blind_rate_ = 0;
  double borrowed_ = 0;  // of the balance: had blindly
  int64_t refilled_ns_ = 0;
};

}  // namespace fathom::master
