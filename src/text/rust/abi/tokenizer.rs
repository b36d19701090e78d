//! C entries of tokenizer and stream decoder.

use std::path::Path;
use std::sync::Arc;

use super::{free_handle, guard, id_slice, Buffer, Bytes, Ids};
use crate::failure::Failure;
use crate::stream_decoder::StreamDecoder;
use crate::tokenizer::Tokenizer;

/// `fathom_tokenizer`.
pub struct TokenizerHandle(pub Arc<Tokenizer>);

/// `fathom_stream_decoder`: keeps the text of the last call alive until the next.
pub struct StreamDecoderHandle {
    decoder: StreamDecoder,
    text: String,
}

/// # Safety
/// See `c_api.h`: pointers are valid for the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_from_directory(
    directory: Bytes,
    out: *mut *mut TokenizerHandle,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let tokenizer = Tokenizer::from_directory(Path::new(directory.as_text("the path")?))?;
        out.write(Box::into_raw(Box::new(TokenizerHandle(Arc::new(tokenizer)))));
        Ok(())
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_from_json(
    json: Bytes,
    out: *mut *mut TokenizerHandle,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let tokenizer = Tokenizer::from_json(json.as_slice())?;
        out.write(Box::into_raw(Box::new(TokenizerHandle(Arc::new(tokenizer)))));
        Ok(())
    })
}

/// # Safety
/// As above; freed once.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_free(tokenizer: *mut TokenizerHandle) {
    free_handle(tokenizer);
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_encode(
    tokenizer: *const TokenizerHandle,
    text: Bytes,
    add_special_tokens: bool,
    parse_special: bool,
    out: *mut Ids,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let text = text.as_text("the text")?;
        let ids = (*tokenizer).0.encode(text, add_special_tokens, parse_special)?;
        out.write(Ids::own(ids));
        Ok(())
    })
}

/// # Safety
/// As above; `ids` points at `count` ids.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_decode(
    tokenizer: *const TokenizerHandle,
    ids: *const i32,
    count: usize,
    skip_special_tokens: bool,
    out: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let text = (*tokenizer).0.decode(id_slice(ids, count), skip_special_tokens)?;
        out.write(Buffer::own(text.into_bytes()));
        Ok(())
    })
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_vocab_size(tokenizer: *const TokenizerHandle) -> i32 {
    (&*tokenizer).0.vocabulary.size()
}

/// # Safety
/// As above. -1 when the token is unknown.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_token_to_id(
    tokenizer: *const TokenizerHandle,
    token: Bytes,
) -> i32 {
    let mut id = -1;
    guard(std::ptr::null_mut(), || {
        id = (*tokenizer).0.token_to_id(token.as_text("the token")?).unwrap_or(-1);
        Ok(())
    });
    id
}

/// # Safety
/// As above. False when the id is unknown; else `out` is to be freed.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_id_to_token(
    tokenizer: *const TokenizerHandle,
    id: i32,
    out: *mut Buffer,
) -> bool {
    let mut found = false;
    guard(std::ptr::null_mut(), || {
        if let Some(token) = (*tokenizer).0.id_to_token(id) {
            out.write(Buffer::own(token.into_bytes()));
            found = true;
        }
        Ok(())
    });
    found
}

/// # Safety
/// As above. The answer lives as long as the tokenizer.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_token_bytes(
    tokenizer: *const TokenizerHandle,
    id: i32,
) -> Bytes {
    let bytes = (&*tokenizer).0.vocabulary.bytes(id);
    Bytes { data: bytes.as_ptr(), size: bytes.len() }
}

/// # Safety
/// As above.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_is_special(
    tokenizer: *const TokenizerHandle,
    id: i32,
) -> bool {
    (&*tokenizer).0.vocabulary.is_special(id)
}

/// # Safety
/// As above. The answer lives as long as the tokenizer.
#[no_mangle]
pub unsafe extern "C" fn fathom_tokenizer_digest(tokenizer: *const TokenizerHandle) -> Bytes {
    let digest = &(&*tokenizer).0.digest;
    Bytes { data: digest.as_ptr(), size: digest.len() }
}

/// # Safety
/// As above. The decoder keeps what it needs of the tokenizer alive.
#[no_mangle]
pub unsafe extern "C" fn fathom_stream_decoder_new(
    tokenizer: *const TokenizerHandle,
    skip_special_tokens: bool,
) -> *mut StreamDecoderHandle {
    Box::into_raw(Box::new(StreamDecoderHandle {
        decoder: StreamDecoder::new((*tokenizer).0.clone(), skip_special_tokens),
        text: String::new(),
    }))
}

/// # Safety
/// As above; freed once.
#[no_mangle]
pub unsafe extern "C" fn fathom_stream_decoder_free(decoder: *mut StreamDecoderHandle) {
    free_handle(decoder);
}

/// # Safety
/// As above. `out` lives until the next call on this decoder.
#[no_mangle]
pub unsafe extern "C" fn fathom_stream_decoder_push(
    decoder: *mut StreamDecoderHandle,
    id: i32,
    out: *mut Bytes,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let handle = &mut *decoder;
        handle.text.clear();
        if id < 0 {
            return Err(Failure::invalid(format!("token id {id} is negative")));
        }
        handle.decoder.push(id, &mut handle.text)?;
        out.write(view(&handle.text));
        Ok(())
    })
}

/// # Safety
/// As above. `out` lives until the next call on this decoder.
#[no_mangle]
pub unsafe extern "C" fn fathom_stream_decoder_flush(
    decoder: *mut StreamDecoderHandle,
    out: *mut Bytes,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let handle = &mut *decoder;
        handle.text.clear();
        handle.decoder.flush(&mut handle.text)?;
        out.write(view(&handle.text));
        Ok(())
    })
}

fn view(text: &str) -> Bytes {
    Bytes { data: text.as_ptr(), size: text.len() }
}
