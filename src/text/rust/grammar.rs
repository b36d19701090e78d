//! Grammars to token masks: llguidance over the vocabulary of one tokenizer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::toktrie::{SimpleVob, INVALID_TOKEN};
use llguidance::{Matcher, ParserFactory};

use crate::deep_thread::{self, Stragglers};
use crate::failure::{Code, Failure, Result};
use crate::panic_guard;
use crate::tokenizer::Tokenizer;
use crate::vocabulary::IDS_MAX;

/// The trie holds no longer tokens; they are never allowed.
const TOKEN_BYTES_MAX: usize = 1000;
/// Errors quote the grammar; so much of them is kept.
const ERROR_BYTES_MAX: usize = 1000;

#[derive(Clone, Copy)]
pub enum Kind {
    JsonSchema,
    Regex,
    Lark,
}

/// Shared between threads. The trie of a large vocabulary takes near a second to make, so a thread
/// begins with it at once, and the first compilation waits for it.
pub struct Compiler {
    factory: Arc<OnceLock<Result<Arc<ParserFactory>>>>,
    tokenizer: Arc<Tokenizer>,
    end_of_sequence: Arc<[u32]>,
    vocab_size: usize,
    stragglers: Stragglers,
}

impl Compiler {
    pub fn new(tokenizer: Arc<Tokenizer>, vocab_size: i32, ends: &[i32]) -> Result<Self> {
        let tokens = tokenizer.vocabulary.size();
        if vocab_size < tokens || vocab_size as usize > IDS_MAX {
            return Err(Failure::invalid(format!(
                "a model of {vocab_size} tokens for a tokenizer of {tokens}"
            )));
        }
        if let Some(id) = ends.iter().find(|&&id| id < 0 || id >= vocab_size) {
            return Err(Failure::invalid(format!("end-of-sequence id {id} is out of range")));
        }
        let compiler = Self {
            factory: Arc::default(),
            tokenizer,
            end_of_sequence: ends.iter().map(|&id| id as u32).collect(),
            vocab_size: vocab_size as usize,
            stragglers: Stragglers::default(),
        };
        let (factory, tokenizer) = (compiler.factory.clone(), compiler.tokenizer.clone());
        let ends = compiler.end_of_sequence.clone();
        // Without a thread the first compilation makes it.
        let _ = std::thread::Builder::new().name("fathom-grammar".into()).spawn(move || {
            factory.get_or_init(|| make_factory(&tokenizer, vocab_size as usize, &ends));
        });
        Ok(compiler)
    }

    fn factory(&self) -> Result<Arc<ParserFactory>> {
        self.factory
            .get_or_init(|| make_factory(&self.tokenizer, self.vocab_size, &self.end_of_sequence))
            .clone()
    }

    pub fn compile(&self, kind: Kind, source: &str, time_max: Duration) -> Result<GrammarMatcher> {
        let factory = self.factory()?;
        let source = source.to_string();
        let matcher = deep_thread::run("the grammar", time_max, &self.stragglers, move || {
            compile(&factory, kind, &source)
        })?;
        Ok(GrammarMatcher {
            matcher,
            end_of_sequence: self.end_of_sequence.clone(),
            vocab_size: self.vocab_size,
            accepted: 0,
            ends_accepted: 0,
        })
    }
}

fn make_factory(
    tokenizer: &Tokenizer,
    vocab_size: usize,
    ends: &[u32],
) -> Result<Arc<ParserFactory>> {
    panic_guard::run(|| {
        let words: Vec<Vec<u8>> =
            (0..vocab_size as i32).map(|id| token_word(tokenizer, id, ends)).collect();
        let info = TokRxInfo::new(vocab_size as u32, *ends.first().unwrap_or(&INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if ends.len() > 1 {
            trie = trie.with_eos_tokens(ends);
        }
        // Not "canonical": no token is forced, so that any spelling of forced text is allowed.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| Failure::invalid(format!("token trie: {error}")))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Arc::new(factory))
    })
}

/// What the trie knows a token by. Special tokens carry a mark that no text has, so that a grammar
/// reaches them by name (`<|tool|>` in Lark) and never by spelling them.
fn token_word(tokenizer: &Tokenizer, id: i32, ends: &[u32]) -> Vec<u8> {
    let vocabulary = &tokenizer.vocabulary;
    if !vocabulary.is_present(id) {
        return Vec::new();
    }
    let name = tokenizer.id_to_token(id).unwrap_or_default();
    let is_end = ends.contains(&(id as u32));
    let bracketed = name.starts_with('<') && name.ends_with('>');
    if is_end || vocabulary.is_special(id) || (vocabulary.is_added(id) && bracketed) {
        let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        word.extend_from_slice(name.as_bytes());
        return word;
    }
    let bytes = vocabulary.bytes(id);
    // 0xff begins no UTF-8 text; such a token would be taken for a special one.
    if bytes.len() > TOKEN_BYTES_MAX || bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    bytes.to_vec()
}

fn compile(factory: &ParserFactory, kind: Kind, source: &str) -> Result<Matcher> {
    let invalid = |error: &dyn std::fmt::Display| Failure::invalid(words(error));
    let grammar = match kind {
        Kind::JsonSchema => {
            let schema = serde_json::from_str(source).map_err(|error| invalid(&error))?;
            TopLevelGrammar::from_json_schema(schema)
        }
        Kind::Regex => TopLevelGrammar::from_regex(source),
        Kind::Lark => TopLevelGrammar::from_lark(source.to_string()),
    };
    let parser = factory.create_parser(grammar).map_err(|error| invalid(&error))?;
    let mut matcher = Matcher::new(Ok(parser));
    if let Some(error) = matcher.get_error() {
        return Err(invalid(&error));
    }
    // The first mask tells whether anything matches at all, and warms the lexer for the first step.
    match matcher.compute_mask_or_eos() {
        Ok(_) => Ok(matcher),
        Err(error) if error.to_string().contains("NoExtensionBias") => {
            Err(Failure::invalid("grammar: nothing matches it"))
        }
        Err(error) => Err(Failure::exhausted(words(&error))),
    }
}

/// An error of llguidance, without its mark for quoting no state and cut to size.
fn words(error: &dyn std::fmt::Display) -> String {
    let mut text = format!("grammar: {error}");
    text.truncate(text.trim_end_matches("\n<non-verbose/>").len());
    if text.len() > ERROR_BYTES_MAX {
        let end = (0..=ERROR_BYTES_MAX).rfind(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

pub struct GrammarMatcher {
    matcher: Matcher,
    end_of_sequence: Arc<[u32]>,
    vocab_size: usize,
    /// Tokens the matcher took, and ends of sequence after it had stopped (which it refuses).
    accepted: usize,
    ends_accepted: usize,
}

impl GrammarMatcher {
    pub fn fill_mask(&mut self, mask: &mut [u32]) -> Result<()> {
        if mask.len() != self.vocab_size.div_ceil(32) {
            return Err(Failure::invalid(format!("a mask of {} words", mask.len())));
        }
        let allowed: SimpleVob = self.matcher.compute_mask_or_eos().map_err(failed)?;
        mask.fill(0);
        let words = allowed.as_slice();
        let count = words.len().min(mask.len());
        mask[..count].copy_from_slice(&words[..count]);
        let last_bits = self.vocab_size % 32;
        if last_bits > 0 {
            mask[self.vocab_size / 32] &= (1 << last_bits) - 1;
        }
        Ok(())
    }

    pub fn accept(&mut self, id: i32) -> Result<()> {
        let refused =
            || Failure::new(Code::FailedPrecondition, format!("token {id} is not allowed"));
        let token = u32::try_from(id).map_err(|_| refused())?;
        if id as usize >= self.vocab_size {
            return Err(refused());
        }
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            if !self.end_of_sequence.contains(&token) {
                return Err(refused());
            }
            self.ends_accepted += 1;
            return Ok(());
        }
        if self.matcher.validate_tokens(&[token]).map_err(failed)? != 1 {
            return Err(refused());
        }
        self.matcher.consume_token(token).map_err(failed)?;
        self.accepted += 1;
        Ok(())
    }

    pub fn rollback(&mut self, count: usize) -> Result<()> {
        if count > self.accepted + self.ends_accepted {
            return Err(Failure::invalid(format!("only fewer than {count} tokens were accepted")));
        }
        let ends = count.min(self.ends_accepted);
        self.matcher.rollback(count - ends).map_err(failed)?;
        self.ends_accepted -= ends;
        self.accepted -= count - ends;
        Ok(())
    }

    pub fn is_finished(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Shares nothing with the original, so that both may run at once.
    pub fn duplicate(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            end_of_sequence: self.end_of_sequence.clone(),
            ..*self
        }
    }
}

/// The limits of a step are hit as the text goes on, so its failure is about resources.
fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::exhausted(words(&error))
}
