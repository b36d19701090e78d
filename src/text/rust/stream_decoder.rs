//! Decoding one token at a time.
//!
//! Invariant: the texts of all pushes and the flush, joined, are `Tokenizer::decode` of all ids.
//! Work a token is proportional to its own bytes. The one exception to the invariant is a run of
//! more than `RUN_BYTES_MAX` byte-fallback tokens that turns out invalid late: its text so far is
//! not held back for ever.

use std::sync::Arc;

use tokenizers::Decoder;

use crate::decode_chain::Core;
use crate::failure::{Failure, Result};
use crate::tokenizer::Tokenizer;

const REPLACEMENT: &str = "\u{fffd}";
const RUN_BYTES_MAX: usize = 64;

pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// No token was decoded yet, and no piece left the core yet.
    first_token: bool,
    first_piece: bool,
    /// Characters that may still be stripped from the start of the text.
    strip_left: usize,
    /// Byte level: an unfinished character. Byte fallback: the run so far.
    bytes: Vec<u8>,
    /// The run of byte tokens cannot become valid any more.
    run_broken: bool,
    /// Tokens held back by `Core::Suffix` (one) and `Core::Whole` (all).
    held: Vec<String>,
}

impl StreamDecoder {
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let strip_left = tokenizer.chain.strip_start.map_or(0, |(_, count)| count);
        Self {
            tokenizer,
            skip_special,
            first_token: true,
            first_piece: true,
            strip_left,
            bytes: Vec::new(),
            run_broken: false,
            held: Vec::new(),
        }
    }

    /// Appends to `out` the text that became certain with `id`.
    pub fn push(&mut self, id: i32, out: &mut String) -> Result<()> {
        let tokenizer = self.tokenizer.clone();
        let vocabulary = &tokenizer.vocabulary;
        if !vocabulary.is_present(id) || (self.skip_special && vocabulary.is_special(id)) {
            return Ok(());
        }
        let first = std::mem::replace(&mut self.first_token, false);
        let chain = &tokenizer.chain;
        match &chain.core {
            Core::ByteLevel if first => {
                let piece = chain.before(&self.token(id), true)?;
                self.push_bytes(&crate::decode_chain::byte_level_bytes(&piece), out);
            }
            Core::ByteLevel => self.push_bytes(vocabulary.bytes(id), out),
            Core::ByteFallback if vocabulary.is_byte(id) => {
                self.push_run(vocabulary.bytes(id)[0], out)?;
            }
            Core::Pieces | Core::ByteFallback => {
                self.end_run(out)?;
                if first || self.first_piece {
                    let piece = chain.before(&self.token(id), first)?;
                    self.emit_piece(&piece, out)?;
                } else {
                    // Pieces come from strings, so their bytes are valid.
                    self.emit(&String::from_utf8_lossy(vocabulary.bytes(id)), out);
                }
            }
            Core::Spaces => {
                if !first {
                    self.emit(" ", out);
                }
                let token = self.token(id);
                self.emit(&token, out);
            }
            Core::Suffix(stage) => {
                if let Some(last) = self.held.pop() {
                    let pieces =
                        stage.decode_chain(vec![last, String::new()]).map_err(Failure::invalid)?;
                    self.emit(&pieces[0], out);
                }
                self.held.push(self.token(id));
            }
            Core::Whole => self.held.push(self.token(id)),
        }
        Ok(())
    }

    /// Appends what was held back and starts afresh.
    pub fn flush(&mut self, out: &mut String) -> Result<()> {
        let tokenizer = self.tokenizer.clone();
        match &tokenizer.chain.core {
            Core::ByteLevel if !self.bytes.is_empty() => {
                self.bytes.clear();
                self.emit(REPLACEMENT, out);
            }
            Core::ByteFallback => self.end_run(out)?,
            Core::Suffix(stage) => {
                if let Some(last) = self.held.pop() {
                    let pieces = stage.decode_chain(vec![last]).map_err(Failure::invalid)?;
                    self.emit(&pieces[0], out);
                }
            }
            Core::Whole => {
                let held = std::mem::take(&mut self.held);
                out.push_str(&tokenizer.decode_tokens(held)?);
            }
            _ => {}
        }
        *self = Self::new(tokenizer, self.skip_special);
        Ok(())
    }

    fn token(&self, id: i32) -> String {
        self.tokenizer.id_to_token(id).unwrap_or_default()
    }

    /// Byte level: what `String::from_utf8_lossy` makes of all bytes, as far as it is certain.
    fn push_bytes(&mut self, bytes: &[u8], out: &mut String) {
        let mut all = std::mem::take(&mut self.bytes);
        let joined;
        let mut rest = if all.is_empty() {
            bytes
        } else {
            all.extend_from_slice(bytes);
            joined = all;
            &joined[..]
        };
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return self.emit(text, out),
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    self.emit(&String::from_utf8_lossy(valid), out);
                    let Some(bad) = error.error_len() else {
                        self.bytes = tail.to_vec();
                        return;
                    };
                    self.emit(REPLACEMENT, out);
                    rest = &tail[bad..];
                }
            }
        }
    }

    /// Byte fallback: one more byte of a run.
    fn push_run(&mut self, byte: u8, out: &mut String) -> Result<()> {
        self.bytes.push(byte);
        let error = match std::str::from_utf8(&self.bytes) {
            _ if self.run_broken => return self.emit_broken(out),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if error.is_some_and(|error| error.error_len().is_some()) {
            self.run_broken = true;
            return self.emit_broken(out);
        }
        if self.bytes.len() >= RUN_BYTES_MAX {
            let valid = error.map_or(self.bytes.len(), |error| error.valid_up_to());
            let tail = self.bytes.split_off(valid);
            let text = std::mem::replace(&mut self.bytes, tail);
            self.emit_piece(&String::from_utf8_lossy(&text), out)?;
        }
        Ok(())
    }

    fn emit_broken(&mut self, out: &mut String) -> Result<()> {
        for _ in 0..std::mem::take(&mut self.bytes).len() {
            self.emit_piece(REPLACEMENT, out)?;
        }
        Ok(())
    }

    fn end_run(&mut self, out: &mut String) -> Result<()> {
        self.run_broken = false;
        if self.bytes.is_empty() {
            return Ok(());
        }
        match String::from_utf8(std::mem::take(&mut self.bytes)) {
            Ok(text) => self.emit_piece(&text, out),
            Err(error) => {
                self.bytes = error.into_bytes();
                self.emit_broken(out)
            }
        }
    }

    /// A piece that left the core.
    fn emit_piece(&mut self, piece: &str, out: &mut String) -> Result<()> {
        let first = std::mem::replace(&mut self.first_piece, false);
        let text = self.tokenizer.chain.after(piece, first)?;
        self.emit(&text, out);
        Ok(())
    }

    /// Joined text on its way out.
    fn emit(&mut self, text: &str, out: &mut String) {
        let mut text = text;
        if self.strip_left > 0 {
            if let Some((content, _)) = self.tokenizer.chain.strip_start {
                while self.strip_left > 0 && text.starts_with(content) {
                    text = &text[content.len_utf8()..];
                    self.strip_left -= 1;
                }
                if !text.is_empty() {
                    self.strip_left = 0;
                }
            }
        }
        out.push_str(text);
    }
}
