//! String methods of Python where pycompat has none or differs.

use minijinja::value::from_args;
use minijinja::{Error, ErrorKind, State, Value};

use super::python_repr::python_str;

/// None when the method is left to pycompat.
pub fn method(
    state: &mut State,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" => strip(text, args, true, true)?,
        "lstrip" => strip(text, args, true, false)?,
        "rstrip" => strip(text, args, false, true)?,
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            Value::from(join(state, text, values)?)
        }
        _ => return Ok(None),
    }))
}

/// `str.isspace` of one character.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip(text: &str, args: &[Value], start: bool, end: bool) -> Result<Value, Error> {
    let (chars,): (Option<&Value>,) = from_args(args)?;
    let chars = chars.and_then(|chars| chars.as_str());
    let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(cut) } else { text };
    let text = if end { text.trim_end_matches(cut) } else { text };
    Ok(Value::from(text))
}

/// The values' texts with `separator` between them, paid for in fuel as they are made.
pub fn join(state: &State, separator: &str, values: &Value) -> Result<String, Error> {
    if values.is_undefined() {
        return Ok(String::new());
    }
    let mut out = String::new();
    let not_iterable = |_| Error::new(ErrorKind::InvalidOperation, "join: cannot iterate");
    for (index, value) in values.try_iter().map_err(not_iterable)?.enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        let text = python_str(&value)?;
        state.consume_fuel(((separator.len() + text.len()) / 64) as u64)?;
        out.push_str(&text);
    }
    Ok(out)
}
