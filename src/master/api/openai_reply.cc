#include "master/api/openai_reply.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "master/api/errors.h"

namespace fathom::master {
namespace {

std::string_view FinishText(FinishReason finish, bool called) {
  switch (finish) {
    case FinishReason::kStop:
      return called ? R"("tool_calls")" : R"("stop")";
    case FinishReason::kLength:
      return R"("length")";
    default:
      return "null";
  }
}

int64_t CodePoints(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

// A call's own pieces: on the first one of an index id, type and name, then arguments alone.
void AppendToolCalls(std::string& out, const std::vector<ToolCallDelta>& calls, bool with_index) {
  out += R"("tool_calls":[)";
  for (size_t i = 0; i < calls.size(); ++i) {
    const ToolCallDelta& call = calls[i];
    out += i == 0 ? "{" : ",{";
    if (with_index) out += absl::StrCat(R"("index":)", call.index, ",");
    if (!call.name.empty()) {
      out += R"("id":)";
      AppendJsonString(out, call.id);
      out += R"(,"type":"function",)";
    }
    out += R"("function":{)";
    if (!call.name.empty()) {
      out += R"("name":)";
      AppendJsonString(out, call.name);
      out += ',';
    }
    out += R"("arguments":)";
    AppendJsonString(out, call.arguments);
    out += "}}";
  }
  out += ']';
}

// The members of a chat chunk's delta.
void AppendDeltaMembers(std::string& out, const GenerationDelta& delta) {
  const char* comma = "";
  if (!delta.reasoning.empty()) {
    out += R"("reasoning_content":)";
    AppendJsonString(out, delta.reasoning);
    comma = ",";
  }
  if (!delta.text.empty()) {
    out += absl::StrCat(std::exchange(comma, ","), R"("content":)");
    AppendJsonString(out, delta.text);
  }
  if (!delta.tool_calls.empty()) {
    out += comma;
    AppendToolCalls(out, delta.tool_calls, /*with_index=*/true);
  }
}

// OpenAI's reply to a chat that has nothing to say is an empty text, and null only beside calls.
void AppendMessage(std::string& out, const OpenAiChoice& choice) {
  out += R"("message":{"role":"assistant","content":)";
  if (choice.text.empty() && !choice.tool_calls.empty()) {
    out += "null";
  } else {
    AppendJsonString(out, choice.text);
  }
  if (!choice.reasoning.empty()) {
    out += R"(,"reasoning_content":)";
    AppendJsonString(out, choice.reasoning);
  }
  if (!choice.tool_calls.empty()) {
    out += ',';
    AppendToolCalls(out, choice.tool_calls, /*with_index=*/false);
  }
  out += R"(,"refusal":null})";
}

}  // namespace

OpenAiReply::OpenAiReply(OpenAiReplyInfo info, size_t num_choices)
    : info_(std::move(info)), progress_(num_choices) {
  chunk_head_ = "data: ";
  AppendHead(chunk_head_,
             info_.kind == OpenAiKind::kChat ? "chat.completion.chunk" : "text_completion");
  if (info_.resume.id.empty()) return;
  cursor_.emplace(info_.resume, num_choices);
  for (size_t i = 0; i < num_choices; ++i) {
    progress_[i].begun = cursor_->Had(static_cast<int32_t>(i)).begun;
  }
}

void OpenAiReply::AppendEventId(std::string& out, bool usage_told) {
  if (!cursor_) return;
  out += "id: ";
  cursor_->AppendToken(out, usage_told);
  out += '\n';
}

bool OpenAiReply::Knows(const GenerationDelta& delta) {
  if (!cursor_ || !cursor_->Knows(delta)) return false;
  Progress& progress = progress_[delta.choice];
  progress.called = progress.called || !delta.tool_calls.empty();
  for (const PositionLogprobs& position : delta.logprobs) {
    progress.text_offset +=
        CodePoints(ValidUtf8(info_.model->tokenizer->TokenBytes(position.chosen.token)));
  }
  return true;
}

void OpenAiReply::AppendHead(std::string& out, std::string_view object) const {
  out += R"({"id":)";
  AppendJsonString(out, info_.id);
  out += R"(,"object":)";
  AppendJsonString(out, object);
  out += absl::StrCat(R"(,"created":)", info_.created, R"(,"model":)");
  AppendJsonString(out, info_.model->name);
  out += R"(,"choices":[)";
}

void OpenAiReply::AppendChunk(std::string& out, const GenerationDelta& delta) {
  Progress& progress = progress_[delta.choice];
  const std::string_view tail = info_.include_usage ? R"(],"usage":null})" : "]}";
  const bool chat = info_.kind == OpenAiKind::kChat;
  if (!std::exchange(progress.begun, true) && chat) {
    if (cursor_) cursor_->Advance({.choice = delta.choice});
    AppendEventId(out);
    out += chunk_head_;
    out += absl::StrCat(R"({"index":)", delta.choice,
                        R"(,"delta":{"role":"assistant","content":""},)"
                        R"("logprobs":null,"finish_reason":null})");
    out += tail;
    out += "\n\n";
  }
  if (cursor_) cursor_->Advance(delta);
  const bool empty = delta.text.empty() && delta.reasoning.empty() && delta.tool_calls.empty() &&
                     delta.logprobs.empty();
  if (empty && delta.finish == FinishReason::kNone) return;
  AppendEventId(out);
  out += chunk_head_;
  out += absl::StrCat(R"({"index":)", delta.choice);
  if (chat) {
    out += R"(,"delta":{)";
    AppendDeltaMembers(out, delta);
    out += '}';
  } else {
    out += R"(,"text":)";
    AppendJsonString(out, delta.text);
  }
  out += R"(,"logprobs":)";
  AppendLogprobs(out, std::nullopt, delta.logprobs, progress);
  progress.called = progress.called || !delta.tool_calls.empty();
  out += R"(,"finish_reason":)";
  out += FinishText(delta.finish, progress.called);
  out += '}';
  out += tail;
  out += "\n\n";
}

void OpenAiReply::AppendUsageChunk(std::string& out, const GenerationUsage& usage) {
  if (info_.resume.usage_told) return;
  AppendEventId(out, /*usage_told=*/true);
  out += chunk_head_;
  out += R"(],"usage":)";
  AppendUsage(out, usage);
  out += "}\n\n";
}

void OpenAiReply::AppendError(std::string& out, const absl::Status& status) {
  out += "data: ";
  out += OpenAiErrorBody(status);
  out += "\n\n";
}

std::string OpenAiReply::Body(const std::vector<OpenAiChoice>& choices,
                              const GenerationUsage& usage) {
  const bool chat = info_.kind == OpenAiKind::kChat;
  std::string out;
  AppendHead(out, chat ? "chat.completion" : "text_completion");
  for (size_t i = 0; i < choices.size(); ++i) {
    const OpenAiChoice& choice = choices[i];
    out += absl::StrCat(i == 0 ? "" : ",", R"({"index":)", i, ",");
    if (chat) {
      AppendMessage(out, choice);
    } else {
      out += R"("text":)";
      AppendJsonString(out, choice.text);
    }
    out += R"(,"logprobs":)";
    AppendLogprobs(out, choice.first_token, choice.logprobs, progress_[i]);
    out += R"(,"finish_reason":)";
    out += FinishText(choice.finish, !choice.tool_calls.empty());
    if (info_.prompt_logprobs && !chat) {
      out += R"(,"prompt_logprobs":)";
      AppendPromptLogprobs(out, choice.prompt_logprobs);
    }
    out += '}';
  }
  out += R"(],"usage":)";
  AppendUsage(out, usage);
  if (info_.prompt_logprobs && chat) {
    out += R"(,"prompt_logprobs":)";
    AppendPromptLogprobs(out, choices.front().prompt_logprobs);
  }
  out += '}';
  return out;
}

void OpenAiReply::AppendUsage(std::string& out, const GenerationUsage& usage) const {
  const int64_t total = int64_t{usage.prompt_tokens} + usage.completion_tokens;
  out += absl::StrCat(R"({"prompt_tokens":)", usage.prompt_tokens, R"(,"completion_tokens":)",
                      usage.completion_tokens, R"(,"total_tokens":)", total,
                      R"(,"prompt_tokens_details":{"cached_tokens":)", usage.cached_tokens, "}");
  if (info_.kind == OpenAiKind::kChat) {
    out += absl::StrCat(R"(,"completion_tokens_details":{"reasoning_tokens":)",
                        usage.reasoning_tokens, "}");
  }
  out += '}';
}

void OpenAiReply::AppendLogprobs(std::string& out, std::optional<TokenId> first,
                                 const std::vector<PositionLogprobs>& positions,
                                 Progress& progress) const {
  if (!info_.logprobs) {
    out += "null";
    return;
  }
  if (info_.kind == OpenAiKind::kChat) return AppendChatLogprobs(out, positions);
  std::string tokens;
  std::string chosen;
  std::string top;
  std::string offsets;
  const auto begin_token = [&](TokenId token) {
    const std::string text = ValidUtf8(info_.model->tokenizer->TokenBytes(token));
    for (std::string* list : {&tokens, &chosen, &top, &offsets}) {
      if (!list->empty()) *list += ',';
    }
    AppendJsonString(tokens, text);
    AppendJsonNumber(offsets, progress.text_offset);
    progress.text_offset += CodePoints(text);
  };
  if (first) {
    begin_token(*first);
    chosen += "null";
    top += "null";
  }
  for (const PositionLogprobs& position : positions) {
    begin_token(position.chosen.token);
    AppendJsonNumber(chosen, position.chosen.logprob);
    top += '{';
    for (size_t k = 0; k < position.top.size(); ++k) {
      top += k == 0 ? "" : ",";
      AppendJsonString(top, info_.model->tokenizer->TokenBytes(position.top[k].token));
      top += ':';
      AppendJsonNumber(top, position.top[k].logprob);
    }
    top += '}';
  }
  out += absl::StrCat(R"({"tokens":[)", tokens, R"(],"token_logprobs":[)", chosen,
                      R"(],"top_logprobs":)", info_.top_logprobs > 0 ? "[" : "null",
                      info_.top_logprobs > 0 ? top : "", info_.top_logprobs > 0 ? "]" : "",
                      R"(,"text_offset":[)", offsets, "]}");
}

void OpenAiReply::AppendTokenFields(std::string& out, const TokenLogprob& token) const {
  const std::string_view bytes = info_.model->tokenizer->TokenBytes(token.token);
  out += R"("token":)";
  AppendJsonString(out, bytes);
  out += R"(,"logprob":)";
  AppendJsonNumber(out, token.logprob);
  out += R"(,"bytes":[)";
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonNumber(out, int64_t{static_cast<unsigned char>(bytes[i])});
  }
  out += ']';
}

void OpenAiReply::AppendChatLogprobs(std::string& out,
                                     const std::vector<PositionLogprobs>& positions) const {
  out += R"({"content":[)";
  for (size_t i = 0; i < positions.size(); ++i) {
    out += i == 0 ? "{" : ",{";
    AppendTokenFields(out, positions[i].chosen);
    out += R"(,"top_logprobs":[)";
    for (size_t k = 0; k < positions[i].top.size(); ++k) {
      out += k == 0 ? "{" : ",{";
      AppendTokenFields(out, positions[i].top[k]);
      out += '}';
    }
    out += "]}";
  }
  out += R"(],"refusal":null})";
}

// [null, {"ID": {"logprob":, "decoded_token":}, ...}, ...]: the first token has none; a position
// holds the token that is there and the best ones.
void OpenAiReply::AppendPromptLogprobs(std::string& out,
                                       const std::vector<PositionLogprobs>& positions) const {
  out += "[null";
  for (const PositionLogprobs& position : positions) {
    out += ",{";
    const auto append = [&](const TokenLogprob& token) {
      out += absl::StrCat("\"", token.token, R"(":{"logprob":)");
      AppendJsonNumber(out, token.logprob);
      out += R"(,"decoded_token":)";
      AppendJsonString(out, info_.model->tokenizer->TokenBytes(token.token));
      out += '}';
    };
    append(position.chosen);
    for (const TokenLogprob& token : position.top) {
      if (token.token == position.chosen.token) continue;
      out += ',';
      append(token);
    }
    out += '}';
  }
  out += ']';
}

}  // namespace fathom::master
