// ThreadSanitizer cannot see the locks and channels of the Rust library (nor those of Debian's
// Abseil), which is not instrumented, yet sees its calls of malloc, free and memcpy, and takes what
// they order for races. Reports with frames of theirs are therefore left out. The C++ above the
// border is checked like all else.

extern "C" const char* __tsan_default_suppressions() {
  return "race:libabsl_\n"
         "race:fathom::text::OwnedBuffer\n"
         "race:fathom_chat_template_\n"
         "race:fathom_grammar_\n"
         "race:fathom_stream_decoder_\n"
         "race:fathom_tokenizer_\n"
         // Rust names, mangled in the new way, in the old one, and demangled.
         "race:_RN\n"
         "race:_RIN\n"
         "race:_ZN3std4\n"
         "race:_ZN4core\n"
         "race:_ZN5alloc\n"
         "race:std::io::\n"
         "race:std::sync\n"
         "race:std::sys::\n"
         "race:alloc..\n"
         "race:alloc::\n"
         "race:core..\n"
         "race:core::\n"
         "race:ahash\n"
         "race:derivre\n"
         "race:fathom_text_rust\n"
         "race:hashbrown\n"
         "race:indexmap\n"
         "race:llguidance\n"
         "race:minijinja\n"
         "race:onig\n"
         "race:referencing\n"
         "race:regex\n"
         "race:serde\n"
         "race:tokenizers\n"
         "race:toktrie\n";
}
