//! What every token id stands for, laid out flat so that a decode step is an array read.

use std::collections::HashSet;

use tokenizers::Tokenizer;

use crate::decode_chain::{byte_level_bytes, Core, DecodeChain};
use crate::failure::{Failure, Result};

/// Ids above this are taken for a broken file.
pub const IDS_MAX: usize = 1 << 22;

const PRESENT: u8 = 1;
const SPECIAL: u8 = 2;
const ADDED: u8 = 4;
const BYTE: u8 = 8;

/// Constant after construction. Ids outside `0..size()` are unknown to every method.
pub struct Vocabulary {
    flags: Vec<u8>,
    /// `data[offsets[id]..offsets[id + 1]]` are the bytes of `id` anywhere but at the start.
    offsets: Vec<u32>,
    data: Vec<u8>,
}

impl Vocabulary {
    pub fn new(tokenizer: &Tokenizer, chain: &DecodeChain) -> Result<Self> {
        let tokens = tokenizer.get_vocab(true);
        let added = tokenizer.get_added_tokens_decoder();
        let largest = tokens.values().chain(added.keys()).max();
        let size = largest.map_or(0, |&id| id as usize + 1);
        if size > IDS_MAX {
            return Err(Failure::invalid(format!("token id {} is out of bounds", size - 1)));
        }
        let special: HashSet<&str> = added
            .values()
            .filter(|token| token.special)
            .map(|token| token.content.as_str())
            .collect();
        let mut vocabulary = Vocabulary {
            flags: Vec::with_capacity(size),
            offsets: Vec::with_capacity(size + 1),
            data: Vec::with_capacity(size * 8),
        };
        vocabulary.offsets.push(0);
        for id in 0..size as u32 {
            let mut flags = 0;
            if let Some(token) = tokenizer.id_to_token(id) {
                flags = PRESENT;
                if special.contains(token.as_str()) {
                    flags |= SPECIAL;
                }
                if added.contains_key(&id) {
                    flags |= ADDED;
                }
                flags |= vocabulary.append(chain, &token)?;
            }
            vocabulary.flags.push(flags);
            let end = u32::try_from(vocabulary.data.len())
                .map_err(|_| Failure::invalid("the vocabulary's tokens are too long"))?;
            vocabulary.offsets.push(end);
        }
        Ok(vocabulary)
    }

    fn append(&mut self, chain: &DecodeChain, token: &str) -> Result<u8> {
        match chain.core {
            Core::Whole | Core::Spaces => self.data.extend_from_slice(token.as_bytes()),
            Core::ByteLevel => {
                let piece = chain.before(token, false)?;
                self.data.extend_from_slice(&byte_level_bytes(&piece));
            }
            Core::Suffix(ref stage) => {
                use tokenizers::Decoder;
                let pieces = stage
                    .decode_chain(vec![token.to_string(), String::new()])
                    .map_err(Failure::invalid)?;
                self.data.extend_from_slice(pieces[0].as_bytes());
            }
            Core::Pieces | Core::ByteFallback => {
                let piece = chain.before(token, false)?;
                if matches!(chain.core, Core::ByteFallback) {
                    if let Some(byte) = DecodeChain::fallback_byte(&piece) {
                        self.data.push(byte);
                        return Ok(BYTE);
                    }
                }
                self.data.extend_from_slice(chain.after(&piece, false)?.as_bytes());
            }
        }
        Ok(0)
    }

    /// One more than the largest id.
    pub fn size(&self) -> i32 {
        self.flags.len() as i32
    }

    fn flag(&self, id: i32, flag: u8) -> bool {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.flags.get(id))
            .is_some_and(|flags| flags & flag != 0)
    }

    pub fn is_present(&self, id: i32) -> bool {
        self.flag(id, PRESENT)
    }

    pub fn is_special(&self, id: i32) -> bool {
        self.flag(id, SPECIAL)
    }

    pub fn is_added(&self, id: i32) -> bool {
        self.flag(id, ADDED)
    }

    /// A single byte of a byte-fallback vocabulary.
    pub fn is_byte(&self, id: i32) -> bool {
        self.flag(id, BYTE)
    }

    /// The bytes the token stands for in the middle of text; empty for unknown ids.
    pub fn bytes(&self, id: i32) -> &[u8] {
        match usize::try_from(id) {
            Ok(id) if id < self.flags.len() => {
                &self.data[self.offsets[id] as usize..self.offsets[id + 1] as usize]
            }
            _ => &[],
        }
    }
}
