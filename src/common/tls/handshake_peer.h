#pragma once

// With whom a TLS handshake fails. gRPC says that one failed and why, but not with whom: so a
// connection is marked with its peer while gRPC takes it, and OpenSSL's own hooks carry the mark
// along.

#include <string>

namespace fathom {

// Once, before any handshake.
void WatchHandshakes();

// While it lives, TLS that begins on this thread is with that peer. Not nested.
class HandshakesWith {
 public:
  explicit HandshakesWith(std::string peer);
  ~HandshakesWith();
  HandshakesWith(const HandshakesWith&) = delete;
  HandshakesWith& operator=(const HandshakesWith&) = delete;
};

// Of the handshake that has just failed on this thread, asked once. Empty: the peer is a server
// that we dialled; "unknown": it was not marked.
std::string FailedHandshakePeer();

}  // namespace fathom
