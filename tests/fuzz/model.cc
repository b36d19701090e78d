#include "fuzz/model.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/files.h"

namespace fathom::fuzz {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 20;

constexpr std::string_view kName = "m";

constexpr char kTemplate[] =
    "{%- if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role "
    "}}\n"
    "{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>{{ call | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking %}<think>{% endif %}{% endif %}";

master::ModelPtr MakeModel() {
  auto model = std::make_shared<master::ServedModelInfo>();
  model->name = std::string(kName);
  model->tokenizer = GoldenTokenizer("qwen_like");
  auto chat_template = text::ChatTemplate::FromSource(kTemplate, "");
  FATHOM_CHECK(chat_template.ok(), "the template does not compile");
  model->chat_template = *std::move(chat_template);
  model->output_format = {master::ReasoningStyle::kThink, master::ToolStyle::kHermes};
  model->template_traits.knows_reasoning = true;
  model->context_length = 4096;
  model->vocab_size = model->tokenizer->vocab_size();
  return model;
}

}  // namespace

const master::Catalog& TestCatalog() {
  static const auto& catalog = *new master::Catalog({MakeModel()});
  return catalog;
}

std::shared_ptr<const text::Tokenizer> GoldenTokenizer(const std::string& name) {
  const std::string path = absl::StrCat(FATHOM_SOURCE_DIR "/tests/golden/text/", name, ".json");
  const auto json = ReadFile(path, kFileBytesMax);
  FATHOM_CHECK(json.ok(), "no file of that tokenizer");
  auto tokenizer = text::Tokenizer::FromJson(*json);
  FATHOM_CHECK(tokenizer.ok(), "the tokenizer does not load");
  return *std::move(tokenizer);
}

}  // namespace fathom::fuzz
