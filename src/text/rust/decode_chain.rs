//! What a tokenizer's decoder does, split so that it can run one token at a time.
//!
//! A decoder of the `tokenizers` crate maps the list of all tokens to text. Nearly all of them are
//! stages that look at one token, or at its being the first; what looks further is a run of byte
//! tokens, a character split over byte-level tokens, or a suffix that means a space except at the
//! end. `DecodeChain` sorts the stages of a `tokenizer.json` into that shape; what does not fit is
//! `Core::Whole` and decodes only at the end. The stages themselves stay the crate's own code.

use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper};

use crate::failure::{Failure, Result};

/// The stage that joins pieces to text.
pub enum Core {
    /// Pieces are text.
    Pieces,
    /// Pieces like `<0x41>` are bytes; a run of them is text if valid, else one U+FFFD a byte.
    ByteFallback,
    /// Each character of a piece stands for a byte.
    ByteLevel,
    /// No decoder: pieces joined by spaces.
    Spaces,
    /// A suffix of a piece is a space, but nothing in the last piece.
    Suffix(DecoderWrapper),
    /// Needs all tokens at once.
    Whole,
}

pub struct DecodeChain {
    /// Stages on single pieces, before and after `core`.
    before: Vec<DecoderWrapper>,
    after: Vec<DecoderWrapper>,
    pub core: Core,
    /// On the joined text: remove up to so many of this character from its start.
    pub strip_start: Option<(char, usize)>,
}

impl DecodeChain {
    /// `decoder` is the `decoder` field of a tokenizer.json.
    pub fn from_json(decoder: &Value) -> Result<Self> {
        if decoder.is_null() {
            return Ok(Self::with_core(Core::Spaces));
        }
        let mut chain = Self::with_core(Core::Pieces);
        let mut stages = Vec::new();
        flatten(decoder, &mut stages);
        let mut joined = false;
        for stage in stages {
            if !chain.add(stage, &mut joined)? {
                return Ok(Self::with_core(Core::Whole));
            }
        }
        Ok(chain)
    }

    fn with_core(core: Core) -> Self {
        DecodeChain { before: Vec::new(), after: Vec::new(), core, strip_start: None }
    }

    /// False when the stage fits nowhere.
    fn add(&mut self, stage: &Value, joined: &mut bool) -> Result<bool> {
        let kind = stage["type"].as_str().unwrap_or_default();
        let strips_end = kind == "Strip" && stage["stop"].as_u64() != Some(0);
        match (kind, &self.core) {
            ("Fuse", _) => *joined = true,
            ("ByteLevel", Core::Pieces) if !*joined => {
                self.core = Core::ByteLevel;
                *joined = true;
            }
            ("ByteFallback", Core::Pieces) if !*joined => self.core = Core::ByteFallback,
            ("BPEDecoder", Core::Pieces) if !*joined && self.before.is_empty() => {
                self.core = Core::Suffix(parse_stage(stage)?);
                *joined = true;
            }
            ("Strip", _) if *joined && !strips_end && self.strip_start.is_none() => {
                let content = stage["content"].as_str().and_then(|s| s.chars().next());
                let count = stage["start"].as_u64().unwrap_or(0) as usize;
                match content {
                    Some(content) => self.strip_start = Some((content, count)),
                    None => return Ok(false),
                }
            }
            ("Replace" | "Strip" | "Metaspace" | "WordPiece", _) if !*joined && !strips_end => {
                let list = match self.core {
                    Core::Pieces => &mut self.before,
                    _ => &mut self.after,
                };
                list.push(parse_stage(stage)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The piece a token becomes before `core`.
    pub fn before(&self, token: &str, first: bool) -> Result<String> {
        run(&self.before, token, first)
    }

    /// What the stages behind `core` make of one piece.
    pub fn after(&self, piece: &str, first: bool) -> Result<String> {
        run(&self.after, piece, first)
    }

    /// The byte that a piece stands for, if it is one of a byte-fallback vocabulary.
    pub fn fallback_byte(piece: &str) -> Option<u8> {
        let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
        if hex.len() != 2 {
            return None;
        }
        u8::from_str_radix(hex, 16).ok()
    }
}

fn flatten<'a>(decoder: &'a Value, out: &mut Vec<&'a Value>) {
    match (decoder["type"].as_str(), decoder["decoders"].as_array()) {
        (Some("Sequence"), Some(decoders)) => {
            for inner in decoders {
                flatten(inner, out);
            }
        }
        _ => out.push(decoder),
    }
}

fn parse_stage(stage: &Value) -> Result<DecoderWrapper> {
    serde_json::from_value(stage.clone())
        .map_err(|error| Failure::invalid(format!("decoder stage of tokenizer.json: {error}")))
}

fn run(stages: &[DecoderWrapper], piece: &str, first: bool) -> Result<String> {
    let mut piece = piece.to_string();
    for stage in stages {
        // Stages tell the first token by its place, so a later one needs another before it. Strip
        // and Replace ignore the place, and Strip dislikes an empty neighbour.
        let alone = first || matches!(stage, DecoderWrapper::Strip(_) | DecoderWrapper::Replace(_));
        let tokens = if alone { vec![piece] } else { vec![String::new(), piece] };
        let pieces = stage.decode_chain(tokens).map_err(Failure::invalid)?;
        piece = pieces.into_iter().next_back().unwrap_or_default();
    }
    Ok(piece)
}

/// One character of a byte-level vocabulary back to its byte (the byte-to-unicode table of GPT-2:
/// printable Latin-1 stands for itself, the other 68 bytes are moved up to U+0100 in order).
pub fn byte_of_char(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes of a piece of a byte-level vocabulary; a piece outside the alphabet is plain text.
pub fn byte_level_bytes(piece: &str) -> Vec<u8> {
    piece
        .chars()
        .map(byte_of_char)
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| piece.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_alphabet_is_a_bijection_onto_bytes() {
        let mut seen = [false; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of_char(c) {
                assert!(!seen[byte as usize], "{c:?}");
                seen[byte as usize] = true;
            }
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(byte_of_char('Ġ'), Some(b' '));
        assert_eq!(byte_of_char('Ċ'), Some(b'\n'));
    }

    #[test]
    fn unknown_shapes_fall_back_to_whole() {
        for decoder in [
            r#"{"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true}"#,
            r#"{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]}"#,
            r#"{"type":"Strip","content":" ","start":0,"stop":1}"#,
        ] {
            let chain = DecodeChain::from_json(&serde_json::from_str(decoder).unwrap()).unwrap();
            assert!(matches!(chain.core, Core::Whole), "{decoder}");
        }
    }

    #[test]
    fn byte_tokens_are_told_from_lookalikes() {
        assert_eq!(DecodeChain::fallback_byte("<0x0A>"), Some(10));
        assert_eq!(DecodeChain::fallback_byte("<0xfF>"), Some(255));
        for lookalike in ["<0xG0>", "<0x123>", "0x0A", "<0x+1>", "<0xé>"] {
            assert_eq!(DecodeChain::fallback_byte(lookalike).is_some(), lookalike == "<0x+1>");
        }
    }
}
