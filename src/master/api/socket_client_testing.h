#pragma once

// A blunt TCP client for tests: sends bytes, reads what comes. Reads give up after ten seconds, so
// that a server that hangs fails the test instead of hanging it.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace fathom::master {

class SocketClient {
 public:
  explicit SocketClient(uint16_t port, int receive_buffer_bytes = 0)
      : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer_bytes > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
    }
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~SocketClient() { Close(); }
  SocketClient(const SocketClient&) = delete;
  SocketClient& operator=(const SocketClient&) = delete;

  bool connected() const { return connected_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  // Reads on; false at the end of the stream.
  bool Read() {
    std::array<char, 65536> buffer;
    const ssize_t got = recv(fd_, buffer.data(), buffer.size(), 0);
    if (got <= 0) return false;
    received_.append(buffer.data(), static_cast<size_t>(got));
    return true;
  }
  // Everything until the server closes.
  std::string ReadAll() {
    while (Read()) {
    }
    return std::exchange(received_, {});
  }
  // Until `text` has come; what came so far, up to and with it.
  std::string ReadUntil(std::string_view text) {
    size_t at = received_.find(text);
    while (at == std::string::npos && Read()) at = received_.find(text);
    if (at == std::string::npos) return std::exchange(received_, {});
    std::string out = received_.substr(0, at + text.size());
    received_.erase(0, at + text.size());
    return out;
  }
  // One answer with Content-Length, head and body.
  std::string ReadAnswer() {
    std::string head = ReadUntil("\r\n\r\n");
    const std::string lower = absl::AsciiStrToLower(head);
    const size_t at = lower.find("content-length: ");
    size_t length = 0;
    if (at == std::string::npos ||
        !absl::SimpleAtoi(lower.substr(at + 16, lower.find('\r', at) - at - 16), &length)) {
      return head;
    }
    while (received_.size() < length && Read()) {
    }
    head += received_.substr(0, length);
    received_.erase(0, length);
    return head;
  }

 private:
  int fd_;
  bool connected_ = false;
  std::string received_;
};

}  // namespace fathom::master
