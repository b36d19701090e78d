//! C entries of chat templates.

use std::path::Path;

use super::{free_handle, guard, Buffer, Bytes};
use crate::panic_guard;
use crate::template::{ChatTemplate, Input};

/// `fathom_chat_template_input`.
#[repr(C)]
pub struct TemplateInput {
    messages: Bytes,
    tools: Bytes,
    extra: Bytes,
    add_generation_prompt: bool,
    has_now: bool,
    now_unix_seconds: i64,
}

/// # Safety
/// See `c_api.h`: pointers are valid for the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn fathom_chat_template_from_directory(
    directory: Bytes,
    out: *mut *mut ChatTemplate,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let template = ChatTemplate::from_directory(Path::new(directory.as_text("the path")?))?;
        out.write(Box::into_raw(Box::new(template)));
        Ok(())
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_chat_template_from_source(
    source: Bytes,
    variables: Bytes,
    out: *mut *mut ChatTemplate,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let source = source.as_text("the template")?;
        let template = ChatTemplate::from_source(source, variables.as_text("the variables")?)?;
        out.write(Box::into_raw(Box::new(template)));
        Ok(())
    })
}

/// # Safety
/// As above; freed once.
#[no_mangle]
pub unsafe extern "C" fn fathom_chat_template_free(template: *mut ChatTemplate) {
    free_handle(template);
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_chat_template_mentions(
    template: *const ChatTemplate,
    word: Bytes,
) -> bool {
    let mentions = panic_guard::run(|| Ok((*template).mentions(word.as_text("the word")?)));
    mentions.unwrap_or(false)
}

/// # Safety
/// As above. `out` is to be freed.
#[no_mangle]
pub unsafe extern "C" fn fathom_chat_template_render(
    template: *const ChatTemplate,
    input: *const TemplateInput,
    out: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let input = &*input;
        let text = (*template).render(&Input {
            messages: input.messages.as_text("messages")?,
            tools: input.tools.as_text("tools")?,
            extra: input.extra.as_text("the template arguments")?,
            add_generation_prompt: input.add_generation_prompt,
            now: input.has_now.then_some(input.now_unix_seconds),
        })?;
        out.write(Buffer::own(text.into_bytes()));
        Ok(())
    })
}
