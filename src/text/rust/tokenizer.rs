//! A tokenizer.json made ready: bounded, without padding or truncation, with its vocabulary flat.

use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use tokenizers::Decoder;

use crate::decode_chain::DecodeChain;
use crate::failure::{read_file, Code, Failure, Result};
use crate::panic_guard;
use crate::vocabulary::Vocabulary;

const FILE_BYTES_MAX: u64 = 256 << 20;
const TEXT_BYTES_MAX: usize = 16 << 20;

/// Constant after construction; shared between threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Reads special tokens in text as plain text; made at first use, since few ask for it.
    plain: OnceLock<tokenizers::Tokenizer>,
    pub chain: DecodeChain,
    pub vocabulary: Vocabulary,
    /// SHA-256 of the file, in hex.
    pub digest: String,
}

impl Tokenizer {
    pub fn from_directory(directory: &Path) -> Result<Self> {
        Self::from_json(&read_file(&directory.join("tokenizer.json"), FILE_BYTES_MAX)?)
    }

    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() as u64 > FILE_BYTES_MAX {
            return Err(Failure::exhausted("tokenizer.json is too large"));
        }
        #[derive(serde::Deserialize)]
        struct OnlyDecoder {
            #[serde(default)]
            decoder: serde_json::Value,
        }
        let broken = |error: &dyn std::fmt::Display| {
            Failure::invalid(format!("tokenizer.json cannot be read: {error}"))
        };
        let file: OnlyDecoder = serde_json::from_slice(json).map_err(|error| broken(&error))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| broken(&error))?;
        // Files saved after a training run carry both; they would cut or pad every prompt.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| broken(&error))?;
        let chain = DecodeChain::from_json(&file.decoder)?;
        let vocabulary = Vocabulary::new(&inner, &chain)?;
        Ok(Self {
            inner,
            plain: OnceLock::new(),
            chain,
            vocabulary,
            digest: hex(&Sha256::digest(json)),
        })
    }

    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<i32>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Failure::exhausted(format!(
                "the text has {} bytes; at most {TEXT_BYTES_MAX} can be tokenized",
                text.len()
            )));
        }
        let tokenizer = if parse_special { &self.inner } else { self.plain() };
        // Regexes that give up on endless blanks do so by a panic.
        let encoding =
            panic_guard::run(|| tokenizer.encode_fast(text, add_special).map_err(Failure::invalid))
                .map_err(|failure| {
                    Failure::invalid(format!("the text cannot be tokenized: {}", failure.message))
                })?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
    }

    fn plain(&self) -> &tokenizers::Tokenizer {
        self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        })
    }

    /// Unknown ids stand for nothing, as in the reference.
    pub fn decode(&self, ids: &[i32], skip_special: bool) -> Result<String> {
        let mut tokens = Vec::with_capacity(ids.len());
        for &id in ids {
            if id < 0 {
                return Err(Failure::invalid(format!("token id {id} is negative")));
            }
            if skip_special && self.vocabulary.is_special(id) {
                continue;
            }
            tokens.extend(self.inner.id_to_token(id as u32));
        }
        self.decode_tokens(tokens)
    }

    pub fn decode_tokens(&self, tokens: Vec<String>) -> Result<String> {
        // Some decoders count back from the last token and would panic without one.
        match self.inner.get_decoder() {
            _ if tokens.is_empty() => Ok(String::new()),
            Some(decoder) => decoder
                .decode(tokens)
                .map_err(|error| Failure::new(Code::Internal, format!("decoding: {error}"))),
            None => Ok(tokens.join(" ")),
        }
    }

    pub fn token_to_id(&self, token: &str) -> Option<i32> {
        self.inner.token_to_id(token).map(|id| id as i32)
    }

    pub fn id_to_token(&self, id: i32) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
