#pragma once

// Answers in OpenAI's form: chunks of a stream and whole bodies. Pure text; the same input gives
// the same bytes. One reply belongs to one strand.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "master/api/openai_request.h"
#include "master/api/resume.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// What is the same in every chunk of one answer.
struct OpenAiReplyInfo {
  OpenAiKind kind = OpenAiKind::kChat;
  std::string id;
  int64_t created = 0;  // Unix seconds
  ModelPtr model;
  bool include_usage = false;
  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool prompt_logprobs = false;
  ResumePlan resume;  // without an id the stream's events have none
};

// One choice of a whole answer.
struct OpenAiChoice {
  std::string text;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;  // one a call, whole
  std::vector<PositionLogprobs> logprobs;
  std::vector<PositionLogprobs> prompt_logprobs;
  std::optional<TokenId> first_token;  // echoed with logprobs: it stands first and has none
  FinishReason finish = FinishReason::kNone;
};

class OpenAiReply {
 public:
  explicit OpenAiReply(OpenAiReplyInfo info, size_t num_choices);

  // True when a client that came back has had this delta: nothing is to be told of it. Deltas in
  // order, before AppendChunk of any later one.
  bool Knows(const GenerationDelta& delta);
  // One server-sent event for a delta; on a chat's first one, before it, the one with the role.
  void AppendChunk(std::string& out, const GenerationDelta& delta);
  // The last chunk of a stream that asked for the usage.
  void AppendUsageChunk(std::string& out, const GenerationUsage& usage);
  static void AppendDone(std::string& out) { out += "data: [DONE]\n\n"; }
  // In mid-stream: after it comes the end, without [DONE].
  static void AppendError(std::string& out, const absl::Status& status);

  std::string Body(const std::vector<OpenAiChoice>& choices, const GenerationUsage& usage);

  const OpenAiReplyInfo& info() const { return info_; }

 private:
  struct Progress {
    bool begun = false;       // the role is out
    bool called = false;      // a tool
    int64_t text_offset = 0;  // code points of the tokens so far
  };

  void AppendHead(std::string& out, std::string_view object) const;
  void AppendEventId(std::string& out, bool usage_told = false);
  void AppendLogprobs(std::string& out, std::optional<TokenId> first,
                      const std::vector<PositionLogprobs>& positions, Progress& progress) const;
  void AppendUsage(std::string& out, const GenerationUsage& usage) const;
  void AppendChatLogprobs(std::string& out, const std::vector<PositionLogprobs>& positions) const;
  void AppendPromptLogprobs(std::string& out, const std::vector<PositionLogprobs>& positions) const;
  void AppendTokenFields(std::string& out, const TokenLogprob& token) const;

  const OpenAiReplyInfo info_;
  std::string chunk_head_;  // up to "choices":[
  std::vector<Progress> progress_;
  std::optional<ResumeCursor> cursor_;
};

}  // namespace fathom::master
