#include "cli/chaos/relay.h"

#include <gtest/gtest.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <string>
#include <thread>

namespace fathom::cli {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

class RelayTest : public testing::Test {
 protected:
  RelayTest() : acceptor_(io_, {asio::ip::address_v4::loopback(), 0}), client_(io_), server_(io_) {
    port_ = *relay_.Open(acceptor_.local_endpoint().port(), 0);
  }

  void Connect() {
    client_.connect({asio::ip::address_v4::loopback(), port_});
    server_ = acceptor_.accept();
  }
  static void Say(tcp::socket& socket, const std::string& text) {
    asio::write(socket, asio::buffer(text));
  }
  static std::string Hear(tcp::socket& socket, size_t size) {
    std::string text(size, ' ');
    error_code error;
    asio::read(socket, asio::buffer(text), error);
    return error ? error.message() : text;
  }
  static bool IsSilent(tcp::socket& socket) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return socket.available() == 0;
  }

  Relay relay_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  tcp::socket client_;
  tcp::socket server_;
  uint16_t port_ = 0;
};

TEST_F(RelayTest, CarriesBothWaysAndPassesTheEndOn) {
  Connect();
  Say(client_, "hello");
  EXPECT_EQ(Hear(server_, 5), "hello");
  Say(server_, "world");
  EXPECT_EQ(Hear(client_, 5), "world");
  client_.shutdown(tcp::socket::shutdown_send);
  EXPECT_EQ(Hear(server_, 1), "End of file");
  Say(server_, "bye");
  EXPECT_EQ(Hear(client_, 3), "bye");
}

TEST_F(RelayTest, ABlackHoleSwallowsNothingAndRefusesNothing) {
  Connect();
  relay_.Cut(0, Relay::Direction::kBoth);
  Say(client_, "later");
  Say(server_, "too");
  EXPECT_TRUE(IsSilent(server_));
  EXPECT_TRUE(IsSilent(client_));
  tcp::socket second(io_);
  error_code error;
  second.connect({asio::ip::address_v4::loopback(), port_}, error);
  EXPECT_FALSE(error);
  relay_.Heal(0, false);
  EXPECT_EQ(Hear(server_, 5), "later");
  EXPECT_EQ(Hear(client_, 3), "too");
}

TEST_F(RelayTest, OneDirectionAlone) {
  Connect();
  relay_.Cut(0, Relay::Direction::kFromTarget);
  Say(client_, "there");
  EXPECT_EQ(Hear(server_, 5), "there");
  Say(server_, "back");
  EXPECT_TRUE(IsSilent(client_));
  relay_.Heal(0, false);
  EXPECT_EQ(Hear(client_, 4), "back");
}

TEST_F(RelayTest, AnEndDoesNotComeThroughABlackHole) {
  Connect();
  relay_.Cut(0, Relay::Direction::kBoth);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  server_.close();
  client_.non_blocking(true);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  std::array<char, 1> byte;
  error_code error;
  client_.read_some(asio::buffer(byte), error);
  EXPECT_EQ(error, asio::error::would_block);
}

TEST_F(RelayTest, HealingMayBreakWhatWasConnected) {
  Connect();
  relay_.Cut(0, Relay::Direction::kBoth);
  relay_.Heal(0, true);
  EXPECT_EQ(Hear(client_, 1), "Connection reset by peer");
  client_.close();
  server_.close();
  Connect();
  Say(client_, "again");
  EXPECT_EQ(Hear(server_, 5), "again");
}

TEST_F(RelayTest, OtherGroupsAreLeftAlone) {
  Connect();
  relay_.Cut(1, Relay::Direction::kBoth);
  Say(client_, "hello");
  EXPECT_EQ(Hear(server_, 5), "hello");
}

}  // namespace
}  // namespace fathom::cli
