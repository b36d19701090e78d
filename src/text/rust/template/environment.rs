//! The environment transformers gives chat templates: its options, globals and filters.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::python_repr::python_str;
use super::{filters, python_strings, strftime};

/// Instructions and, by 64 bytes, created text a render may spend: some 100 ms at worst, and
/// thirty times what a conversation of 1000 turns needs.
const FUEL: u64 = 5_000_000;
const RECURSION_MAX: usize = 200;

pub fn make() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_unknown_method_callback(unknown_method);
    environment.set_formatter(|out, state, value| {
        match value.as_str() {
            Some(text) => out.write_str(text)?,
            None => out.write_str(&python_str(state, value)?)?,
        }
        Ok(())
    });
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime::strftime_now);
    filters::add(&mut environment);
    environment
}

/// What a template said with raise_exception.
#[derive(Debug)]
pub struct Raised(pub String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(state: &State, message: &Value) -> Result<Value, Error> {
    let raised = Raised(python_str(state, message)?);
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
}

fn unknown_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if method == "format" {
            filters::check_format(text)?;
        }
        if let Some(result) = python_strings::method(state, text, method, args)? {
            return Ok(result);
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}
