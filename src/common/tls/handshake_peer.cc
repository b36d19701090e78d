#include "common/tls/handshake_peer.h"

#include <openssl/ssl.h>

#include <atomic>
#include <memory>
#include <utility>

namespace fathom {
namespace {

constexpr char kUnknown[] = "unknown";

thread_local std::string t_begins_with;
thread_local std::string t_last_with = kUnknown;  // whose handshake went on last
std::atomic<int> g_mark{-1};  // its index among what OpenSSL keeps for us with each connection

// At every record and message, either way, and the alert that a failure ends with. gRPC has the
// other hook, that for the states of a handshake.
void OnMessage(int, int, int, const void*, size_t, SSL* ssl, void*) {
  const auto* peer = static_cast<const std::string*>(SSL_get_ex_data(ssl, g_mark));
  t_last_with = SSL_is_server(ssl) == 0 ? "" : peer == nullptr ? kUnknown : *peer;
}

void OnBegin(void* ssl, void*, CRYPTO_EX_DATA* data, int mark, long, void*) {
  SSL_set_msg_callback(static_cast<SSL*>(ssl), OnMessage);
  if (t_begins_with.empty()) return;
  auto peer = std::make_unique<std::string>(t_begins_with);
  if (CRYPTO_set_ex_data(data, mark, peer.get()) == 1) static_cast<void>(peer.release());
}

void OnEnd(void*, void* peer, CRYPTO_EX_DATA*, int, long, void*) {
  delete static_cast<std::string*>(peer);
}

}  // namespace

void WatchHandshakes() { g_mark = SSL_get_ex_new_index(0, nullptr, OnBegin, nullptr, OnEnd); }

HandshakesWith::HandshakesWith(std::string peer) { t_begins_with = std::move(peer); }
HandshakesWith::~HandshakesWith() { t_begins_with.clear(); }

std::string FailedHandshakePeer() { return std::exchange(t_last_with, kUnknown); }

}  // namespace fathom
