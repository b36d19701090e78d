// Certificates: what is made can be used, and what is wrong with others is said.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "common/clock.h"
#include "common/files.h"
#include "common/tls/authority.h"
#include "common/tls/link_credentials.h"

namespace fathom {
namespace {

constexpr absl::Duration kDay = absl::Hours(24);

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() : authority_(Authority::Create(now_, 10 * kDay).value()) {
    folder_ = testing::TempDir() + "/fathom_tls_" + std::to_string(getpid()) + "_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  ~TlsTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    std::string path = folder_ + "/" + name;
    EXPECT_TRUE(WriteFileAtomically(path, text).ok());
    return path;
  }
  TlsFiles Files(const TlsIdentity& identity, const std::string& ca) {
    return {Write("ca.pem", ca), Write("cert.pem", identity.certificate),
            Write("key.pem", identity.key)};
  }
  TlsFiles Good() {
    return Files(authority_.Issue(kWorkerTlsName, now_, kDay).value(),
                 authority_.pem().certificate);
  }
  std::string Refusal(const TlsFiles& files, absl::Time now) {
    const absl::Status status = CheckTlsFiles(files, kWorkerTlsName, now);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }

  const absl::Time now_ = Clock::Real()->Now();
  const Authority authority_;
  std::string folder_;
};

TEST_F(TlsTest, WhatAnAuthorityIssuesHoldsForItsNameAndTime) {
  const TlsFiles files = Good();
  EXPECT_TRUE(CheckTlsFiles(files, kWorkerTlsName, now_).ok());
  EXPECT_TRUE(CheckTlsFiles(files, kWorkerTlsName, now_ + absl::Hours(23)).ok());
  EXPECT_LT(absl::AbsDuration(CertificateEnd(files).value() - (now_ + kDay)), absl::Seconds(2));
  EXPECT_TRUE(absl::StrContains(Refusal(files, now_ + absl::Hours(25)), "expired"));
  EXPECT_TRUE(absl::StrContains(Refusal(files, now_ - absl::Hours(2)), "not yet valid"));
  const absl::Status other = CheckTlsFiles(files, kMasterTlsName, now_);
  EXPECT_TRUE(absl::StrContains(other.message(), kMasterTlsName)) << other;
}

TEST_F(TlsTest, ACertificateEndsWithItsAuthority) {
  const TlsFiles files = Files(authority_.Issue(kWorkerTlsName, now_, 100 * kDay).value(),
                               authority_.pem().certificate);
  EXPECT_LT(absl::AbsDuration(CertificateEnd(files).value() - (now_ + 10 * kDay)),
            absl::Seconds(2));
  EXPECT_EQ(authority_.Issue(kWorkerTlsName, now_ + 11 * kDay, kDay).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(TlsTest, AnAuthorityIsReadBackAndIssuesOn) {
  const Authority read = Authority::FromPem(authority_.pem()).value();
  const TlsFiles files =
      Files(read.Issue(kWorkerTlsName, now_, kDay).value(), authority_.pem().certificate);
  EXPECT_TRUE(CheckTlsFiles(files, kWorkerTlsName, now_).ok());

  const Authority other = Authority::Create(now_, kDay).value();
  EXPECT_FALSE(Authority::FromPem({authority_.pem().certificate, other.pem().key}).ok());
  EXPECT_FALSE(Authority::FromPem({"", authority_.pem().key}).ok());
  // A worker's certificate makes nobody a CA.
  EXPECT_FALSE(Authority::FromPem(authority_.Issue(kWorkerTlsName, now_, kDay).value()).ok());
}

TEST_F(TlsTest, SaysWhichFileIsWrong) {
  const Authority other = Authority::Create(now_, 10 * kDay).value();
  TlsFiles files = Good();
  files.ca = Write("other_ca.pem", other.pem().certificate);
  EXPECT_TRUE(absl::StrContains(Refusal(files, now_), "other_ca.pem"));
  files = Good();
  files.key = Write("other_key.pem", other.pem().key);
  EXPECT_TRUE(absl::StrContains(Refusal(files, now_), "other_key.pem"));
  files = Good();
  files.certificate = Write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
  EXPECT_TRUE(absl::StrContains(Refusal(files, now_), "garbage.pem"));
  files.certificate = folder_ + "/missing.pem";
  EXPECT_TRUE(absl::StrContains(Refusal(files, now_), "missing.pem"));
  files = Good();
  files.key.clear();
  EXPECT_TRUE(absl::StrContains(Refusal(files, now_), "all of"));
}

}  // namespace
}  // namespace fathom
