//! Text to tokens and back, behind a C ABI (`c_api.h`): the crates `tokenizers`, `minijinja` and
//! `llguidance`, bounded and without a panic across the border.

mod abi;
mod decode_chain;
mod deep_thread;
mod failure;
mod grammar;
mod panic_guard;
mod stream_decoder;
mod template;
mod tokenizer;
mod vocabulary;
