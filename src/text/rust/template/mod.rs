//! Chat templates: Jinja as transformers sets it up, rendered by minijinja.

mod environment;
mod filters;
mod model_files;
mod python_json;
mod python_repr;
mod python_strings;
mod source;
mod strftime;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use minijinja::{Environment, ErrorKind, Value};

use crate::deep_thread;
use crate::failure::{Code, Failure, Result};

/// Ten times the largest in the wild. With it the depth of a template's syntax tree is bounded.
pub const SOURCE_BYTES_MAX: usize = 256 << 10;
const INPUT_BYTES_MAX: usize = 64 << 20;
const OUTPUT_BYTES_MAX: usize = 128 << 20;

/// The template used when tools are given, if a model names one.
const TOOL_USE: &str = "tool_use";
const DEFAULT: &str = "default";

/// Constant after construction; shared between threads.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    has_tool_use: bool,
    /// bos_token and the like: seen by every render.
    variables: Vec<(String, Value)>,
}

pub struct Input<'a> {
    pub messages: &'a str,
    /// Empty for none, as `extra`.
    pub tools: &'a str,
    pub extra: &'a str,
    pub add_generation_prompt: bool,
    /// Seconds since the epoch for `strftime_now`; None for the machine's clock.
    pub now: Option<i64>,
}

impl ChatTemplate {
    pub fn from_directory(directory: &Path) -> Result<Self> {
        let model = model_files::read(directory)?;
        Self::new(&model.templates, model.variables)
    }

    pub fn from_source(source: &str, variables: &str) -> Result<Self> {
        let templates = BTreeMap::from([(DEFAULT.to_string(), source.to_string())]);
        Self::new(&templates, parse_object(variables, "the variables")?)
    }

    fn new(templates: &BTreeMap<String, String>, variables: Vec<(String, Value)>) -> Result<Self> {
        if !templates.contains_key(DEFAULT) {
            return Err(Failure::new(Code::NotFound, "the model has no default chat template"));
        }
        let mut sources = Vec::new();
        for name in [DEFAULT, TOOL_USE] {
            let Some(source) = templates.get(name) else { continue };
            if source.len() > SOURCE_BYTES_MAX {
                return Err(Failure::exhausted("the chat template is too large"));
            }
            sources.push((name, source::prepare(source)));
        }
        let environment = deep_thread::in_depth("the chat template", || {
            let mut environment = environment::make();
            for (name, source) in sources {
                environment
                    .add_template_owned(name, source)
                    .map_err(|error| Failure::invalid(format!("chat template: {error}")))?;
            }
            Ok(environment)
        })?;
        Ok(Self {
            environment: Arc::new(environment),
            has_tool_use: templates.contains_key(TOOL_USE),
            variables,
        })
    }

    /// Whether any of the templates spells `word`.
    pub fn mentions(&self, word: &str) -> bool {
        self.environment.templates().any(|(_, template)| template.source().contains(word))
    }

    pub fn render(&self, input: &Input) -> Result<String> {
        let mut messages = parse_json(input.messages, "messages")?;
        if messages.kind() != minijinja::value::ValueKind::Seq {
            return Err(Failure::invalid("messages is not a list"));
        }
        messages = model_files::with_reasoning_names(messages)?;
        let tools = match input.tools {
            "" => Value::from(()),
            tools => parse_json(tools, "tools")?,
        };
        let name = match self.has_tool_use && !tools.is_none() {
            true => TOOL_USE,
            false => DEFAULT,
        };
        let mut context: BTreeMap<String, Value> = self.variables.iter().cloned().collect();
        context.insert("documents".into(), Value::from(()));
        context.extend(parse_object(input.extra, "the template arguments")?);
        context.insert("messages".into(), messages);
        context.insert("tools".into(), tools);
        context.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        if let Some(now) = input.now {
            context.insert(strftime::NOW_VARIABLE.into(), now.into());
        }

        let environment = self.environment.clone();
        deep_thread::in_depth("the chat template", move || {
            let template = environment.get_template(name).map_err(|error| failure(&error))?;
            let mut output = Bounded(Vec::new());
            template
                .render_captured_to(Value::from_pairs(context), &mut output)
                .map_err(|error| failure(&error))?;
            String::from_utf8(output.0)
                .map_err(|_| Failure::new(Code::Internal, "the template rendered broken UTF-8"))
        })
    }
}

/// Text that refuses to grow over its limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(std::io::Error::other(OutputTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct OutputTooLarge;

impl std::fmt::Display for OutputTooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "the rendered prompt is larger than {OUTPUT_BYTES_MAX} bytes")
    }
}

impl std::error::Error for OutputTooLarge {}

fn failure(error: &minijinja::Error) -> Failure {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        if let Some(raised) = cause.downcast_ref::<environment::Raised>() {
            return Failure::invalid(&raised.0);
        }
        if cause.downcast_ref::<std::io::Error>().is_some() {
            return Failure::exhausted(OutputTooLarge);
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => Failure::exhausted("the chat template does too much work"),
        _ => Failure::invalid(format!("chat template: {error}")),
    }
}

fn parse_json(text: &str, what: &str) -> Result<Value> {
    if text.len() > INPUT_BYTES_MAX {
        return Err(Failure::exhausted(format!("{what} is larger than {INPUT_BYTES_MAX} bytes")));
    }
    serde_json::from_str(text).map_err(|error| Failure::invalid(format!("{what}: {error}")))
}

/// The pairs of a JSON object; none for an empty text.
fn parse_object(text: &str, what: &str) -> Result<Vec<(String, Value)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let value = parse_json(text, what)?;
    match value.as_object() {
        Some(object) if value.kind() == minijinja::value::ValueKind::Map => Ok(object
            .try_iter_pairs()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.to_string(), value))
            .collect()),
        _ => Err(Failure::invalid(format!("{what}: not an object"))),
    }
}
