#include "text/c_api_util.h"
#include "text/text.h"

namespace fathom::text {

void ChatTemplate::Free::operator()(fathom_chat_template* p) const { fathom_chat_template_free(p); }

ChatTemplate::ChatTemplate(fathom_chat_template* handle) : handle_(handle) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::FromDirectory(
    std::string_view directory) {
  fathom_chat_template* handle = nullptr;
  OwnedBuffer error;
  const int32_t code = fathom_chat_template_from_directory(Borrow(directory), &handle, error.out());
  if (code != 0) return ToStatus(code, error);
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(handle));
}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::FromSource(
    std::string_view source, std::string_view variables_json) {
  fathom_chat_template* handle = nullptr;
  OwnedBuffer error;
  const int32_t code = fathom_chat_template_from_source(Borrow(source), Borrow(variables_json),
                                                        &handle, error.out());
  if (code != 0) return ToStatus(code, error);
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(handle));
}

bool ChatTemplate::Mentions(std::string_view word) const {
  return fathom_chat_template_mentions(handle_.get(), Borrow(word));
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatTemplateInput& input) const {
  const fathom_chat_template_input c_input = {
      .messages_json = Borrow(input.messages_json),
      .tools_json = Borrow(input.tools_json),
      .extra_json = Borrow(input.extra_json),
      .add_generation_prompt = input.add_generation_prompt,
      .has_now = input.now_unix_seconds.has_value(),
      .now_unix_seconds = input.now_unix_seconds.value_or(0),
  };
  OwnedBuffer text;
  OwnedBuffer error;
  const int32_t code =
      fathom_chat_template_render(handle_.get(), &c_input, text.out(), error.out());
  if (code != 0) return ToStatus(code, error);
  return std::string(text.view());
}

}  // namespace fathom::text
