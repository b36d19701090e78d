#include "common/tls/authority.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/pem.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom {
namespace {

using openssl::LastError;

constexpr int kSerialBits = 127;  // positive, at most 20 octets (RFC 5280, 4.1.2.2)
constexpr long kVersion3 = 2;
constexpr absl::Duration kClockSkew = absl::Hours(1);

absl::Status Failed(const char* what) {
  return absl::InternalError(absl::StrCat("TLS: ", what, ": ", LastError()));
}

absl::StatusOr<std::string> KeyPem(EVP_PKEY* key) {
  const openssl::Bio bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Failed("cannot write a key");
  }
  return openssl::TextOf(bio.get());
}

absl::StatusOr<std::string> CertificatePem(X509* certificate) {
  const openssl::Bio bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(bio.get(), certificate) != 1) return Failed("cannot write a certificate");
  return openssl::TextOf(bio.get());
}

bool SetRandomSerial(X509* certificate) {
  BIGNUM* number = BN_new();
  const bool good = BN_rand(number, kSerialBits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
                    BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(number);
  return good;
}

bool SetCommonName(X509_NAME* name, const std::string& value) {
  return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(value.data()),
                                    static_cast<int>(value.size()), -1, 0) == 1;
}

bool AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const openssl::Extension extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, const_cast<char*>(value.c_str())));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

struct Part {
  int nid;
  std::string value;
};

// A signed certificate for `key`. `issuer` null: it signs itself.
absl::StatusOr<openssl::Certificate> Make(EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key,
                                          const std::string& common_name, absl::Time from,
                                          absl::Time to, const std::vector<Part>& parts) {
  openssl::Certificate made(X509_new());
  X509* const x = made.get();
  if (issuer == nullptr) issuer = x;
  bool good = X509_set_version(x, kVersion3) == 1 && SetRandomSerial(x) &&
              ASN1_TIME_set(X509_getm_notBefore(x), absl::ToTimeT(from)) != nullptr &&
              ASN1_TIME_set(X509_getm_notAfter(x), absl::ToTimeT(to)) != nullptr &&
              X509_set_pubkey(x, key) == 1 &&
              SetCommonName(X509_get_subject_name(x), common_name) &&
              X509_set_issuer_name(x, X509_get_subject_name(issuer)) == 1;
  for (const Part& part : parts) good = good && AddExtension(x, issuer, part.nid, part.value);
  if (!good || X509_sign(x, issuer_key, EVP_sha256()) == 0) {
    return Failed("cannot make a certificate");
  }
  return made;
}

}  // namespace

absl::StatusOr<Authority> Authority::Create(absl::Time now, absl::Duration lifetime) {
  Authority made;
  made.key_.reset(EVP_EC_gen("P-256"));
  if (made.key_ == nullptr) return Failed("cannot draw a key");
  ASSIGN_OR_RETURN(made.certificate_, Make(made.key_.get(), nullptr, made.key_.get(),
                                           "Fathom cluster CA", now - kClockSkew, now + lifetime,
                                           {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                                            {NID_key_usage, "critical,keyCertSign,cRLSign"},
                                            {NID_subject_key_identifier, "hash"}}));
  ASSIGN_OR_RETURN(made.pem_.certificate, CertificatePem(made.certificate_.get()));
  ASSIGN_OR_RETURN(made.pem_.key, KeyPem(made.key_.get()));
  return made;
}

absl::StatusOr<Authority> Authority::FromPem(const TlsIdentity& pem) {
  Authority read;
  read.pem_ = pem;
  read.certificate_.reset(
      PEM_read_bio_X509(openssl::ReadOnly(pem.certificate).get(), nullptr, nullptr, nullptr));
  read.key_.reset(
      PEM_read_bio_PrivateKey(openssl::ReadOnly(pem.key).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (read.certificate_ == nullptr || X509_check_ca(read.certificate_.get()) == 0) {
    return absl::InvalidArgumentError("not the certificate of a CA");
  }
  if (read.key_ == nullptr ||
      X509_check_private_key(read.certificate_.get(), read.key_.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError("not the private key of the CA's certificate");
  }
  return read;
}

absl::StatusOr<TlsIdentity> Authority::Issue(const std::string& dns_name, absl::Time now,
                                             absl::Duration lifetime) const {
  const openssl::Key key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Failed("cannot draw a key");
  ASSIGN_OR_RETURN(const absl::Time end, openssl::EndOf(certificate_.get()));
  if (end <= now) return absl::FailedPreconditionError("the CA's certificate has expired");
  ASSIGN_OR_RETURN(const openssl::Certificate made,
                   Make(key.get(), certificate_.get(), key_.get(), dns_name, now - kClockSkew,
                        std::min(end, now + lifetime),
                        {{NID_basic_constraints, "critical,CA:FALSE"},
                         {NID_key_usage, "critical,digitalSignature"},
                         {NID_ext_key_usage, "serverAuth,clientAuth"},
                         {NID_subject_alt_name, absl::StrCat("DNS:", dns_name)},
                         {NID_authority_key_identifier, "keyid"}}));
  TlsIdentity identity;
  ASSIGN_OR_RETURN(identity.certificate, CertificatePem(made.get()));
  ASSIGN_OR_RETURN(identity.key, KeyPem(key.get()));
  return identity;
}

}  // namespace fathom
