#include "worker/master_book.h"

#include <gtest/gtest.h>

namespace fathom::worker {
namespace {

using Addresses = std::set<std::string>;

bool Wants(const MasterBook& book, const std::string& address, const Addresses& linked) {
  return book.Wants(address, [&](const std::string& other) { return linked.contains(other); });
}

TEST(MasterBookTest, WhatWasGivenIsDialledForEver) {
  MasterBook book({"service:5000"});
  EXPECT_TRUE(book.Knows("service:5000"));
  EXPECT_TRUE(Wants(book, "service:5000", {}));
  book.Learn({"a:1", "b:1"});
  EXPECT_TRUE(Wants(book, "service:5000", {"a:1", "b:1"})) << "it may be one that nobody told of";
}

TEST(MasterBookTest, AnotherNameIsOfUseWhileAMasterIsMissing) {
  MasterBook book({"service:5000"});
  book.Learn({"a:1", "b:1"});
  book.IsAlias("service:5000");
  EXPECT_FALSE(Wants(book, "service:5000", {"a:1", "b:1"}));
  EXPECT_TRUE(Wants(book, "service:5000", {"a:1"}));
  EXPECT_TRUE(book.Knows("service:5000"));
}

TEST(MasterBookTest, OneThatWasToldOfIsDialledOnce) {
  MasterBook book({"a:1"});
  book.Learn({"a:1", "b:1"});
  book.IsAlias("a:1");
  EXPECT_TRUE(Wants(book, "b:1", {"a:1"}));
  EXPECT_FALSE(Wants(book, "b:1", {"a:1", "b:1"}));
  EXPECT_TRUE(Wants(book, "a:1", {"b:1"}));
}

TEST(MasterBookTest, ForgetsWhoIsNotToldOfAnyMore) {
  MasterBook book({"service:5000"});
  book.Learn({"a:1", "b:1"});
  book.Learn({"b:1", "c:1"});
  EXPECT_FALSE(book.Knows("a:1"));
  EXPECT_TRUE(book.Knows("c:1"));
  EXPECT_TRUE(book.Knows("service:5000"));
}

}  // namespace
}  // namespace fathom::worker
