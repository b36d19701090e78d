//! Filters, tests and functions where minijinja's differ from what Jinja does under Python.

use minijinja::formatting::{self, FormatStyle};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::python_repr::{is_list, python_str};
use super::{python_json, python_strings};

const INDENT_MAX: usize = 1 << 10;
const FORMAT_DIGITS_MAX: usize = 4;

pub fn add(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |state: &State, value: &Value| python_str(state, value));
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("format", format);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_function("dict", dict);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", |value: &Value| {
        is_sequence(value) || value.kind() == ValueKind::Iterable
    });
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// Arguments that may come by place or by name, taken in the order of their places.
struct Arguments {
    placed: std::vec::IntoIter<Value>,
    named: Kwargs,
}

impl Arguments {
    fn new(placed: Rest<Value>, named: Kwargs) -> Self {
        Self { placed: placed.0.into_iter(), named }
    }

    fn next(&mut self, name: &'static str) -> Result<Option<Value>, Error> {
        match self.placed.next() {
            Some(value) => Ok(Some(value)),
            None => self.named.get(name),
        }
    }

    fn next_flag(&mut self, name: &'static str) -> Result<bool, Error> {
        Ok(self.next(name)?.is_some_and(|value| value.is_true()))
    }

    fn end(mut self) -> Result<(), Error> {
        match self.placed.next() {
            Some(_) => Err(Error::from(ErrorKind::TooManyArguments)),
            None => self.named.assert_all_used(),
        }
    }
}

/// The arguments of json.dumps.
fn tojson(
    state: &State,
    value: &Value,
    placed: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let mut arguments = Arguments::new(placed, named);
    let ensure_ascii = arguments.next_flag("ensure_ascii")?;
    let indent = arguments.next("indent")?.filter(|value| !value.is_none());
    let separators = arguments.next("separators")?.filter(|value| !value.is_none());
    let sort_keys = arguments.next_flag("sort_keys")?;
    arguments.end()?;
    let style = python_json::Style::new(ensure_ascii, indent, separators, sort_keys)?;
    python_json::dumps(state, value, &style).map(Value::from)
}

fn join(
    state: &mut State,
    value: &Value,
    placed: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let mut arguments = Arguments::new(placed, named);
    let separator = arguments.next("d")?.unwrap_or_else(|| Value::from(""));
    let attribute = arguments.next("attribute")?.filter(|value| !value.is_none());
    arguments.end()?;
    let values = match attribute {
        Some(attribute) => {
            let named = Kwargs::from_iter([("attribute", attribute)]);
            state.apply_filter("map", &[value.clone(), named.into()])?
        }
        None => value.clone(),
    };
    python_strings::join(state, &python_str(state, &separator)?, &values)
}

fn indent(
    state: &State,
    text: &Value,
    placed: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let mut arguments = Arguments::new(placed, named);
    let width = arguments.next("width")?.unwrap_or_else(|| Value::from(4));
    let first = arguments.next_flag("first")?;
    let blank = arguments.next_flag("blank")?;
    arguments.end()?;
    let indention = match width.as_str() {
        Some(text) => text.to_string(),
        None => " ".repeat(usize::try_from(width)?.min(INDENT_MAX)),
    };
    // A last line end begins one more line, which splitlines alone would not tell.
    let text = python_str(state, text)? + "\n";
    let mut out = String::new();
    for (index, line) in python_strings::lines(&text, false).into_iter().enumerate() {
        state.consume_fuel((indention.len() / 64) as u64)?;
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn default(value: &Value, placed: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut arguments = Arguments::new(placed, named);
    let other = arguments.next("default_value")?.unwrap_or_else(|| Value::from(""));
    let boolean = arguments.next_flag("boolean")?;
    arguments.end()?;
    let replace = value.is_undefined() || (boolean && !value.is_true());
    Ok(if replace { other } else { value.clone() })
}

/// `"%s of %s" | format(a, b)`.
fn format(text: &str, args: Rest<Value>) -> Result<String, Error> {
    check_format(text)?;
    formatting::format(FormatStyle::Printf, text, &args.0)
}

/// Refuses widths and precisions that are made to eat memory.
pub fn check_format(text: &str) -> Result<(), Error> {
    let longest = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
    if text.contains('*') || longest > Some(FORMAT_DIGITS_MAX) {
        return Err(Error::new(ErrorKind::InvalidOperation, "format: too wide"));
    }
    Ok(())
}

/// What cannot be read as a number becomes `other` (0).
fn int(value: &Value, other: Option<Value>) -> Value {
    let number = match value.as_str() {
        Some(text) => {
            let text = text.trim();
            let whole = text.parse::<i64>().ok().map(Value::from);
            whole.or_else(|| text.parse::<f64>().ok().and_then(truncate))
        }
        None if value.is_integer() => Some(value.clone()),
        None => match value.kind() {
            ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
            ValueKind::Number => f64::try_from(value.clone()).ok().and_then(truncate),
            _ => None,
        },
    };
    number.or(other).unwrap_or_else(|| Value::from(0))
}

fn truncate(number: f64) -> Option<Value> {
    let fits = number.is_finite() && number.abs() < 1e38;
    fits.then(|| Value::from(number as i128))
}

fn float(value: &Value, other: Option<Value>) -> Value {
    let number = match value.as_str() {
        Some(text) => text.trim().parse::<f64>().ok(),
        None => match value.kind() {
            ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
            _ => f64::try_from(value.clone()).ok(),
        },
    };
    number.map(Value::from).or(other).unwrap_or_else(|| Value::from(0.0))
}

/// `dict(mapping or pairs, name=value, ..)`.
fn dict(base: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let broken = || Error::new(ErrorKind::InvalidOperation, "dict: neither a mapping nor pairs");
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(base) = base {
        match (base.kind(), base.as_object()) {
            (ValueKind::Map, Some(map)) => pairs.extend(map.try_iter_pairs().into_iter().flatten()),
            _ => {
                for pair in base.try_iter().map_err(|_| broken())? {
                    let [key, value] = [0, 1].map(|index| pair.get_item_by_index(index));
                    pairs.push((key.map_err(|_| broken())?, value.map_err(|_| broken())?));
                }
            }
        }
    }
    for name in kwargs.args() {
        pairs.push((Value::from(name), kwargs.get(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

/// Python's sequences have a length and items by index, which strings and dicts do too; and so
/// does what is undefined.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, String, Undefined};
    is_list(value) || matches!(value.kind(), Map | String | Undefined)
}
