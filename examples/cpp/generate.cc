// Streams one chat over gRPC, and goes on at another master when its own is gone:
//
//   FATHOM_API_KEY=... fathom-example-generate HOST:PORT[,HOST:PORT...] QUESTION [MAX_TOKENS]
//
// FATHOM_TIMEOUT: seconds until the last token, over all masters; 60 when it is not set.
//
// What makes it survive, in the order of the code below:
//   1. The request has a name of its own (idempotency_key), so that it can be found again before
//      its first token.
//   2. resume_seconds asks the server to go on for a moment when the connection breaks.
//   3. Every message has a resume_token. The same request with the last one, at any master of the
//      cluster, gets what follows: nothing twice, nothing left out.
//   4. The stream is whole once a message with the usage has come; until then it goes on elsewhere,
//      unless the server says that the request itself is what ends its workers.

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "fathom/v1/inference.grpc.pb.h"

namespace {

namespace v1 = fathom::v1;
using Time = std::chrono::system_clock::time_point;  // what gRPC's deadlines are made of

constexpr int kHoldSeconds = 10;
constexpr double kFirstPauseSeconds = 0.1;
constexpr double kLongestPauseSeconds = 5;

struct Settings {
  std::vector<std::string> masters;
  std::string question;
  int max_tokens = 0;  // 0: what the model's context leaves
  std::string key;
  Time deadline;
};

std::string FromEnvironment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

// [{"role": "user", "content": QUESTION}], with all that JSON wants escaped.
std::string MessagesJson(const std::string& question) {
  google::protobuf::ListValue messages;
  auto& fields = *messages.add_values()->mutable_struct_value()->mutable_fields();
  fields["role"].set_string_value("user");
  fields["content"].set_string_value(question);
  std::string json;
  // Fails for bytes that are not UTF-8; the server then refuses the empty list.
  (void)google::protobuf::util::MessageToJsonString(messages, &json);
  return json;
}

std::string RandomName() {
  std::random_device random;
  std::ostringstream name;
  for (int i = 0; i < 4; ++i) name << std::hex << random();
  return name.str();
}

v1::GenerateRequest MakeRequest(const Settings& settings) {
  v1::GenerateRequest request;  // without a model: the only one that is served
  request.mutable_chat()->set_messages_json(MessagesJson(settings.question));
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(settings.max_tokens);
  request.set_idempotency_key(RandomName());
  request.set_first_try(true);  // nothing can run under that name yet
  request.set_resume_seconds(kHoldSeconds);
  return request;
}

// How a connection ended.
struct End {
  bool whole = false;  // all has come
  grpc::Status status;
  std::string code;                       // what a program needs to know besides, if anything
  std::chrono::milliseconds retry_after;  // a master that has no room says when to come back
};

std::string TrailerOf(const grpc::ClientContext& context, const char* name) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto found = metadata.find(name);
  return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
}

// One connection: prints what comes and keeps the place in `request`.
End Stream(v1::Inference::Stub& stub, const Settings& settings, v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(settings.deadline);
  if (!settings.key.empty()) context.AddMetadata("authorization", "Bearer " + settings.key);
  const std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader =
      stub.Generate(&context, request);
  End end;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    std::cout << message.text_delta() << std::flush;
    request.set_resume_token(message.resume_token());
    end.whole = message.has_usage();
  }
  end.status = reader->Finish();
  end.code = TrailerOf(context, "fathom-error-code");
  const std::string retry_after = TrailerOf(context, "retry-after-ms");
  end.retry_after = std::chrono::milliseconds(std::strtoll(retry_after.c_str(), nullptr, 10));
  request.set_first_try(false);
  return end;
}

// Whether another master, or the same one a moment later, may go on. Everything else is an answer.
bool MayPass(const End& end) {
  // It has cost the cluster workers: it must not cost it more.
  if (end.code == "worker_lost") return false;
  return end.status.ok() || end.status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         (end.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
          end.retry_after.count() > 0);
}

// Between nothing and a bound that doubles, so that clients do not come back all at once.
std::chrono::milliseconds Pause(int failures) {
  std::random_device random;
  const double longest =
      std::min(kLongestPauseSeconds, kFirstPauseSeconds * double(1 << std::min(failures - 1, 10)));
  std::uniform_real_distribution<double> seconds(0, longest);
  return std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds(random)));
}

int Run(const Settings& settings) {
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs;
  for (const std::string& master : settings.masters) {
    stubs.push_back(
        v1::Inference::NewStub(grpc::CreateChannel(master, grpc::InsecureChannelCredentials())));
  }
  v1::GenerateRequest request = MakeRequest(settings);
  int failures = 0;  // since a token came last
  for (size_t i = 0;; i = (i + 1) % stubs.size()) {
    const std::string place = request.resume_token();
    const End end = Stream(*stubs[i], settings, request);
    if (end.whole) {
      std::cout << std::endl;
      return 0;
    }
    const std::string reason = end.status.error_message();
    if (!MayPass(end)) {
      std::cerr << settings.masters[i] << ": " << reason << "\n";
      return 1;
    }
    failures = request.resume_token() == place ? failures + 1 : 1;
    auto pause = Pause(failures);
    // With a second master there is no need to wait for the one that is full.
    if (stubs.size() == 1) pause = std::max(pause, end.retry_after);
    if (std::chrono::system_clock::now() + pause >= settings.deadline) {
      std::cerr << "no master has answered to the end in time; the last: " << reason << "\n";
      return 1;
    }
    std::cerr << settings.masters[i] << ": " << reason << "; going on\n";
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  if (argc < 3 || argc > 4) {
    std::cerr << "usage: fathom-example-generate HOST:PORT[,HOST:PORT...] QUESTION [MAX_TOKENS]\n";
    return 2;
  }
  std::istringstream masters(argv[1]);
  for (std::string master; std::getline(masters, master, ',');) settings.masters.push_back(master);
  if (settings.masters.empty()) {
    std::cerr << "no master is given\n";
    return 2;
  }
  settings.question = argv[2];
  if (argc > 3) settings.max_tokens = std::atoi(argv[3]);
  settings.key = FromEnvironment("FATHOM_API_KEY", "");
  const int seconds = std::atoi(FromEnvironment("FATHOM_TIMEOUT", "60").c_str());
  settings.deadline = std::chrono::system_clock::now() + std::chrono::seconds(seconds);
  return Run(settings);
}
