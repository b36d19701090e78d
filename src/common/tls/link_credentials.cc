#include "common/tls/link_credentials.h"

#include <grpc/support/log.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/logging.h"
#include "common/repeated_news.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/tls/handshake_peer.h"
#include "common/tls/openssl_handles.h"

namespace fathom {
namespace {

constexpr size_t kPemBytesMax = size_t{1} << 20;
constexpr unsigned kRefreshSeconds = 5;
constexpr absl::Duration kEndsSoon = absl::Hours(7 * 24);
// So begins what gRPC says of one, with the reason after it.
constexpr char kHandshakeFailed[] = "Handshake failed";

absl::Status Bad(std::string_view file, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("TLS: ", ToAbsl(file), ": ", ToAbsl(what)));
}

// The certificates of a file in their order; at least one.
absl::StatusOr<std::vector<openssl::Certificate>> ReadCertificates(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string pem, ReadFile(path, kPemBytesMax));
  const openssl::Bio bio = openssl::ReadOnly(pem);
  std::vector<openssl::Certificate> certificates;
  while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(next);
  }
  ERR_clear_error();  // the end of the file is an error as well
  if (certificates.empty()) return Bad(path, "no certificate in PEM");
  return certificates;
}

// gRPC asks for the password of a key on the terminal otherwise.
int NoPassword(char*, int, int, void*) { return -1; }

absl::Status CheckKey(const TlsFiles& files, X509* certificate) {
  ASSIGN_OR_RETURN(const std::string pem, ReadFile(files.key, kPemBytesMax));
  const openssl::Key key(
      PEM_read_bio_PrivateKey(openssl::ReadOnly(pem).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) {
    ERR_clear_error();
    return Bad(files.key, "no private key in PEM, or one with a password");
  }
  if (X509_check_private_key(certificate, key.get()) == 1) return absl::OkStatus();
  ERR_clear_error();
  return Bad(files.key, absl::StrCat("is not the key of ", files.certificate));
}

absl::Status CheckChain(const TlsFiles& files,
                        const std::vector<openssl::Certificate>& certificates,
                        const std::vector<openssl::Certificate>& authorities, absl::Time now) {
  const openssl::Store store(X509_STORE_new());
  for (const auto& authority : authorities) X509_STORE_add_cert(store.get(), authority.get());
  const openssl::StoreContext context(X509_STORE_CTX_new());
  STACK_OF(X509)* const between = sk_X509_new_null();
  for (size_t i = 1; i < certificates.size(); ++i) sk_X509_push(between, certificates[i].get());
  X509_STORE_CTX_init(context.get(), store.get(), certificates[0].get(), between);
  X509_STORE_CTX_set_time(context.get(), 0, absl::ToTimeT(now));
  const bool good = X509_verify_cert(context.get()) == 1;
  const int error = X509_STORE_CTX_get_error(context.get());
  sk_X509_free(between);
  ERR_clear_error();
  if (good) return absl::OkStatus();
  return Bad(files.certificate, absl::StrCat("does not hold against ", files.ca, ": ",
                                             X509_verify_cert_error_string(error)));
}

std::shared_ptr<grpc::experimental::CertificateProviderInterface> Watch(const TlsFiles& files) {
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.ca, kRefreshSeconds);
}

void LogRefused(const std::string& peer, const char* why) {
  static auto* const refused = new RepeatedNews(Clock::Real());
  const auto held_back = refused->Say(peer);
  if (!held_back) return;
  LogWarn("link", "peer refused",
          {{"source.address", peer},
           {"error.message", std::string(why)},
           {"labels.held_back", *held_back}});
}

}  // namespace

void RequireTls13() {
  // A suite of TLS 1.3 cannot be named here; one of 1.2 that needs what neither side has can, and
  // then 1.2 finds no cipher in common.
  setenv("GRPC_SSL_CIPHER_SUITES", "PSK-AES256-GCM-SHA384", 1);
}

void LogForGrpc() {
  WatchHandshakes();
  gpr_set_log_function([](gpr_log_func_args* args) {
    LogLevel level = args->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarn : LogLevel::kDebug;
    if (absl::StartsWith(args->message, kHandshakeFailed)) {
      const std::string peer = FailedHandshakePeer();
      if (!peer.empty()) return LogRefused(peer, args->message);
      level = LogLevel::kDebug;
    }
    Log(level, "grpc", args->message,
        {{"log.origin.file.name", std::string(args->file)},
         {"log.origin.file.line", int64_t{args->line}}});
  });
}

absl::Status CheckTlsFiles(const TlsFiles& files, std::string_view name, absl::Time now) {
  if (files.ca.empty() || files.certificate.empty() || files.key.empty()) {
    return absl::InvalidArgumentError("TLS needs all of ca, certificate and key");
  }
  ASSIGN_OR_RETURN(const auto certificates, ReadCertificates(files.certificate));
  ASSIGN_OR_RETURN(const auto authorities, ReadCertificates(files.ca));
  X509* const own = certificates[0].get();
  RETURN_IF_ERROR(CheckKey(files, own));
  RETURN_IF_ERROR(CheckChain(files, certificates, authorities, now));
  if (X509_check_host(own, name.data(), name.size(), 0, nullptr) != 1) {
    return Bad(files.certificate, absl::StrCat("is not for the DNS name ", ToAbsl(name)));
  }
  ASSIGN_OR_RETURN(const absl::Time end, openssl::EndOf(own));
  if (end - now < kEndsSoon) {
    LogWarn("link", "the certificate ends within a week: renew it",
            {{"file.path", files.certificate}, {"labels.valid_until", absl::FormatTime(end)}});
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Time> CertificateEnd(const TlsFiles& files) {
  ASSIGN_OR_RETURN(const auto certificates, ReadCertificates(files.certificate));
  return openssl::EndOf(certificates[0].get());
}

std::shared_ptr<grpc::ServerCredentials> LinkServerCredentials(const TlsFiles& files) {
  grpc::experimental::TlsServerCredentialsOptions options(Watch(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> LinkChannelCredentials(const TlsFiles& files) {
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Watch(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

absl::Status CheckPeer(const grpc::AuthContext& peer, std::string_view name) {
  if (!peer.IsPeerAuthenticated()) {
    return absl::UnauthenticatedError("the peer has shown no certificate");
  }
  const auto names = peer.FindPropertyValues(GRPC_X509_SAN_PROPERTY_NAME);
  const bool has = std::any_of(names.begin(), names.end(), [name](const grpc::string_ref& given) {
    return std::string_view(given.data(), given.size()) == name;
  });
  if (has) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("the peer's certificate is not for the DNS name ", ToAbsl(name)));
}

}  // namespace fathom
