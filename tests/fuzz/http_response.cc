// What a server may answer the command line: an answer or an error, and the same wherever the
// network cuts it.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "cli/chat_client.h"
#include "cli/http_client/http_client.h"
#include "common/check.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"

namespace fathom::cli {
namespace {

// Answers every connection with the pieces it was given last, whatever is asked, and closes. It
// listens on all of 127.0.0.0/8: an address a request, since closed connections keep their ports.
class Server {
 public:
  Server() : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    const bool bound =
        bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    FATHOM_CHECK(bound && listen(listener_, 16) == 0, "cannot listen");
    socklen_t size = sizeof(address);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    std::thread([this] { Run(); }).detach();
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Url Give(const std::vector<std::string_view>& pieces) {
    const std::lock_guard lock(mutex_);
    // Copies: a client that has read enough leaves before all is sent.
    pieces_.assign(pieces.begin(), pieces.end());
    ++num_given_;
    const uint32_t host = INADDR_LOOPBACK + num_given_ % 60'000;
    return {.host = inet_ntoa({htonl(host)}), .port = port_, .base = ""};
  }

 private:
  void Run() {
    while (true) {
      const int fd = accept(listener_, nullptr, nullptr);
      if (fd < 0) continue;
      Answer(fd);
      close(fd);
    }
  }

  void Answer(int fd) {
    const int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    char request[4096];
    if (recv(fd, request, sizeof(request), 0) <= 0) return;
    std::vector<std::string> pieces;
    {
      const std::lock_guard lock(mutex_);
      pieces = pieces_;
    }
    for (const std::string& piece : pieces) {
      if (send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) return;
    }
    // Until the client has seen the end: closing at once could take back what it has not read.
    shutdown(fd, SHUT_WR);
    while (recv(fd, request, sizeof(request), 0) > 0) {
    }
  }

  const int listener_;
  uint16_t port_ = 0;
  std::mutex mutex_;
  std::vector<std::string> pieces_;
  uint32_t num_given_ = 0;
};

Server& TheServer() {
  static auto& server = *new Server();
  return server;
}

struct Answer {
  absl::StatusCode code = absl::StatusCode::kOk;
  int status = 0;
  std::string content_type;
  int retry_after_s = 0;
  std::string body;
  bool operator==(const Answer&) const = default;
};

Answer Ask(const std::vector<std::string_view>& pieces, bool with_sink) {
  HttpClient client(TheServer().Give(pieces),
                    {.connect_timeout = absl::Seconds(5), .idle_timeout = absl::Seconds(5)});
  std::string sunk;
  const HttpClient::Sink sink = [&sunk](std::string_view bytes) {
    sunk += bytes;
    return absl::OkStatus();
  };
  const auto response = client.Post("/v1/x", "{}", with_sink ? sink : HttpClient::Sink());
  fuzz::CheckSound(with_sink ? 1 : 0, response.status());
  // Nothing waits: the server closes.
  FATHOM_CHECK(!absl::IsDeadlineExceeded(response.status()), "the client waits for nothing");
  if (!response.ok()) return {.code = response.status().code()};
  if (response->status != 200) fuzz::CheckSound(2, ErrorOf(*response));
  return {absl::StatusCode::kOk, response->status, response->content_type, response->retry_after_s,
          with_sink && response->status == 200 ? sunk : response->body};
}

}  // namespace

// How to cut it, then what the server says.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t seed = input.Byte();
  const std::string_view text = input.Rest();
  const Answer whole = Ask({text}, /*with_sink=*/false);
  FATHOM_CHECK(Ask({text}, /*with_sink=*/true) == whole, "a sink gets something else");
  FATHOM_CHECK(Ask(fuzz::Cut(text, seed), seed % 2 == 0) == whole, "pieces change the answer");
  return 0;
}

}  // namespace fathom::cli
