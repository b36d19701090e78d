#pragma once

// Which masters a worker dials: those it was given, and those that masters tell of. What it was
// given may be another name of a master that has an address of its own (the name of a Kubernetes
// Service, behind which any of them answers): once that shows, the name is of use only while a
// master that was told of is not linked. Pure. Not thread safe.

#include <functional>
#include <set>
#include <string>
#include <vector>

namespace fathom::worker {

class MasterBook {
 public:
  explicit MasterBook(const std::vector<std::string>& given) : given_(given.begin(), given.end()) {}

  // All masters there are, as one of them says.
  void Learn(const std::vector<std::string>& told) { told_ = {told.begin(), told.end()}; }
  // A master answered there that has another address, or that is linked already.
  void IsAlias(const std::string& address) {
    if (given_.contains(address)) aliases_.insert(address);
  }

  // Worth an entry at all.
  bool Knows(const std::string& address) const {
    return given_.contains(address) || told_.contains(address);
  }
  // Worth dialling now. `linked` tells whether that address has a link.
  bool Wants(const std::string& address,
             const std::function<bool(const std::string&)>& linked) const {
    if (told_.contains(address)) return !linked(address);
    if (!aliases_.contains(address) || told_.empty()) return true;
    for (const std::string& master : told_) {
      if (!linked(master)) return true;
    }
    return false;
  }

 private:
  const std::set<std::string> given_;
  std::set<std::string> told_;
  std::set<std::string> aliases_;
};

}  // namespace fathom::worker
