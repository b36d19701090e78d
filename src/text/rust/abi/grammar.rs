//! C entries of grammars.

use std::time::Duration;

use super::tokenizer::TokenizerHandle;
use super::{free_handle, guard, id_slice, Buffer, Bytes};
use crate::failure::Failure;
use crate::grammar::{Compiler, GrammarMatcher, Kind};

/// # Safety
/// See `c_api.h`: pointers are valid for the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_compiler_new(
    tokenizer: *const TokenizerHandle,
    vocab_size: i32,
    end_of_sequence: *const i32,
    end_of_sequence_count: usize,
    out: *mut *mut Compiler,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let ends = id_slice(end_of_sequence, end_of_sequence_count);
        let compiler = Compiler::new((&*tokenizer).0.clone(), vocab_size, ends)?;
        out.write(Box::into_raw(Box::new(compiler)));
        Ok(())
    })
}

/// # Safety
/// As above; freed once.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_compiler_free(compiler: *mut Compiler) {
    free_handle(compiler);
}

/// # Safety
/// As above. `kind`: 0 JSON schema, 1 regex, 2 Lark.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_compile(
    compiler: *const Compiler,
    kind: i32,
    source: Bytes,
    source_bytes_max: usize,
    compile_ms_max: i32,
    out: *mut *mut GrammarMatcher,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let kind = match kind {
            0 => Kind::JsonSchema,
            1 => Kind::Regex,
            2 => Kind::Lark,
            _ => return Err(Failure::invalid(format!("no grammar kind {kind}"))),
        };
        let source = source.as_text("the grammar")?;
        if source.len() > source_bytes_max {
            let text = format!("the grammar is larger than {source_bytes_max} bytes");
            return Err(Failure::exhausted(text));
        }
        let time_max = Duration::from_millis(compile_ms_max.max(0) as u64);
        let matcher = (*compiler).compile(kind, source, time_max)?;
        out.write(Box::into_raw(Box::new(matcher)));
        Ok(())
    })
}

/// # Safety
/// As above; freed once.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_matcher_free(matcher: *mut GrammarMatcher) {
    free_handle(matcher);
}

/// # Safety
/// As above; `mask` points at `word_count` writable words.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_matcher_fill_mask(
    matcher: *mut GrammarMatcher,
    mask: *mut u32,
    word_count: usize,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        if mask.is_null() {
            return Err(Failure::invalid("no mask"));
        }
        (*matcher).fill_mask(std::slice::from_raw_parts_mut(mask, word_count))
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_matcher_accept(
    matcher: *mut GrammarMatcher,
    id: i32,
    error: *mut Buffer,
) -> i32 {
    guard(error, || (*matcher).accept(id))
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_matcher_rollback(
    matcher: *mut GrammarMatcher,
    token_count: i32,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let count = usize::try_from(token_count)
            .map_err(|_| Failure::invalid(format!("a rollback by {token_count}")))?;
        (*matcher).rollback(count)
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_matcher_is_finished(
    matcher: *const GrammarMatcher,
) -> bool {
    (*matcher).is_finished()
}

/// # Safety
/// As above. `out` is to be freed.
#[no_mangle]
pub unsafe extern "C" fn fathom_grammar_matcher_clone(
    matcher: *const GrammarMatcher,
    out: *mut *mut GrammarMatcher,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        out.write(Box::into_raw(Box::new((*matcher).duplicate())));
        Ok(())
    })
}
