#pragma once

// For tests: a server on a free port that answers each connection with canned bytes, whatever it is
// asked, and keeps what it read.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cli/http_client/url.h"

namespace fathom::cli {

// One connection: for each piece, a request is read and the piece is sent. Then it is closed, or
// left open and silent.
struct CannedConnection {
  std::vector<std::string> pieces;
  bool stays_open = false;
};

class CannedServer {
 public:
  explicit CannedServer(std::vector<CannedConnection> script) : script_(std::move(script)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener_, 16) != 0) {
      std::abort();
    }
    socklen_t size = sizeof(address);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  }
  ~CannedServer() {
    thread_.request_stop();
    thread_.join();
    for (const int fd : open_) close(fd);
    close(listener_);
  }

  Url url() const { return Url{.host = "127.0.0.1", .port = port_, .base = ""}; }
  std::vector<std::string> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  static bool Readable(int fd, const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
      if (poll(&entry, 1, 10) > 0) return true;
    }
    return false;
  }

  void Run(const std::stop_token& stop) {
    for (const CannedConnection& connection : script_) {
      if (!Readable(listener_, stop)) return;
      const int fd = accept(listener_, nullptr, nullptr);
      for (const std::string& piece : connection.pieces) {
        if (!ReadRequest(fd, stop)) break;
        send(fd, piece.data(), piece.size(), MSG_NOSIGNAL);
      }
      if (connection.stays_open) {
        open_.push_back(fd);
      } else {
        close(fd);
      }
    }
  }

  // Head and body, told by Content-Length.
  bool ReadRequest(int fd, const std::stop_token& stop) {
    std::string request;
    while (true) {
      const size_t head_end = request.find("\r\n\r\n");
      if (head_end != std::string::npos) {
        const size_t at = request.find("Content-Length: ");
        const size_t length = at == std::string::npos ? 0 : std::stoul(request.substr(at + 16));
        if (request.size() >= head_end + 4 + length) break;
      }
      if (!Readable(fd, stop)) return false;
      char bytes[4096];
      const ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
      if (got <= 0) return false;
      request.append(bytes, static_cast<size_t>(got));
    }
    const std::lock_guard lock(mutex_);
    requests_.push_back(std::move(request));
    return true;
  }

  const std::vector<CannedConnection> script_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::vector<int> open_;
  std::mutex mutex_;
  std::vector<std::string> requests_;  // protected by mutex_
  std::jthread thread_;
};

// A whole answer with a body of known length.
inline std::string CannedAnswer(int status, const std::string& body,
                                const std::string& headers = "") {
  return "HTTP/1.1 " + std::to_string(status) + " X\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

}  // namespace fathom::cli
