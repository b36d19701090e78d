//! The environment transformers gives chat templates: its options, globals and filters.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::python_repr::python_str;
use super::{python_json, python_strings, strftime};

/// Instructions and, by 64 bytes, created text a render may spend: about a second at worst, a
/// hundred times what long conversations need.
const FUEL: u64 = 20_000_000;
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
    environment.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => out.write_str(text)?,
            None => out.write_str(&python_str(value)?)?,
        }
        Ok(())
    });
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime::strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| python_str(value));
    environment.add_filter("join", join);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
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

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let raised = Raised(python_str(message)?);
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
}

fn tojson(value: &Value, args: Rest<Value>) -> Result<Value, Error> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(&args)?;
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let mut given: [Option<Value>; 4] = Default::default();
    for (slot, value) in given.iter_mut().zip(positional.iter()) {
        *slot = Some(value.clone());
    }
    for (slot, name) in given.iter_mut().zip(names) {
        if kwargs.has(name) {
            *slot = Some(kwargs.get(name)?);
        }
    }
    kwargs.assert_all_used()?;
    let [ensure_ascii, indent, separators, sort_keys] = given;
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let style = python_json::Style::new(
        truth(ensure_ascii),
        indent.filter(|value| !value.is_none()),
        separators.filter(|value| !value.is_none()),
        truth(sort_keys),
    )?;
    python_json::dumps(value, &style).map(Value::from)
}

fn join(
    state: &mut State,
    value: &Value,
    separator: Option<&Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let attribute: Option<Value> = kwargs.get("attribute")?;
    let separator = match (separator, kwargs.get::<Option<Value>>("d")?) {
        (Some(separator), _) => python_str(separator)?,
        (None, Some(separator)) => python_str(&separator)?,
        (None, None) => String::new(),
    };
    kwargs.assert_all_used()?;
    let values = match attribute {
        Some(attribute) => {
            let named = Kwargs::from_iter([("attribute", attribute)]);
            state.apply_filter("map", &[value.clone(), named.into()])?
        }
        None => value.clone(),
    };
    python_strings::join(state, &separator, &values)
}

/// Python's sequences have a length and items by index, which strings and dicts do too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
}

fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || matches!(value.kind(), ValueKind::Iterable | ValueKind::Undefined)
}

fn unknown_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if let Some(result) = python_strings::method(state, text, method, args)? {
            return Ok(result);
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}
