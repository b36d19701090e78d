// Chat templates and what they render: bounded whatever they say, and the same each time.

#include <string_view>

#include "common/check.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "text/text.h"

namespace {

constexpr size_t kTextBytesMax = size_t{128} << 20;
constexpr std::string_view kMessages =
    R"([{"role":"system","content":"Be brief."},{"role":"user","content":"Hi <there>"},)"
    R"({"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",)"
    R"("function":{"name":"f","arguments":{"x":[1,2.5,null,true]}}}]},)"
    R"({"role":"tool","tool_call_id":"c1","content":"4"}])";

}  // namespace

// The template, a line `===`, the messages (some of ours when there are none).
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fathom::fuzz::CheckSound;
  fathom::fuzz::Input input(data, size);
  const auto chat_template = fathom::text::ChatTemplate::FromSource(
      input.Section("==="), R"({"bos_token":"<s>","eos_token":"</s>"})");
  CheckSound(0, chat_template.status());
  if (!chat_template.ok()) return 0;
  const std::string_view messages = input.Rest().empty() ? kMessages : input.Rest();
  for (const bool prompt : {false, true}) {
    const fathom::text::ChatTemplateInput chat = {.messages_json = messages,
                                                  .tools_json = prompt ? messages : "",
                                                  .extra_json = R"({"enable_thinking":false})",
                                                  .add_generation_prompt = prompt,
                                                  .now_unix_seconds = 1'700'000'000};
    const auto text = (*chat_template)->Render(chat);
    CheckSound(1, text.status());
    if (!text.ok()) continue;
    FATHOM_CHECK(text->size() < kTextBytesMax, "a text without bound");
    const auto again = (*chat_template)->Render(chat);
    FATHOM_CHECK(again.ok() && *again == *text, "another text the second time");
  }
  return 0;
}
