//! String methods of Python where pycompat has none or differs.

use minijinja::value::{from_args, Kwargs, Tuple};
use minijinja::{Error, ErrorKind, State, Value};

use super::python_repr::python_str;

/// Widths beyond this are no formatting any more.
const WIDTH_MAX: usize = 1 << 16;

/// None when the method is left to pycompat.
pub fn method(
    state: &State,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" => strip(text, args, true, true)?,
        "lstrip" => strip(text, args, true, false)?,
        "rstrip" => strip(text, args, false, true)?,
        "split" => split(state, text, args, false)?,
        "rsplit" => split(state, text, args, true)?,
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = keep_ends.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            list(state, lines(text, keep_ends))?
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(text, separator, method == "rpartition")?
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            Value::from(join(state, text, values)?)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            match text.find(part) {
                Some(at) => Value::from(text[..at].chars().count()),
                None => return Err(invalid("substring not found")),
            }
        }
        "title" => no_args(args, title(text))?,
        "swapcase" => no_args(args, text.chars().map(swap_case).collect())?,
        "casefold" => no_args(args, text.to_lowercase().replace('ß', "ss"))?,
        "ljust" | "rjust" | "center" => pad(text, method, args)?,
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            let zeros = width.min(WIDTH_MAX).saturating_sub(text.chars().count());
            Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
        }
        "isspace" => no_args_value(args, !text.is_empty() && text.chars().all(is_space))?,
        "isdigit" => no_args_value(args, !text.is_empty() && text.chars().all(is_digit))?,
        _ => return Ok(None),
    }))
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

fn no_args(args: &[Value], result: String) -> Result<Value, Error> {
    no_args_value(args, result)
}

fn no_args_value(args: &[Value], result: impl Into<Value>) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(result.into())
}

/// `str.isspace` of one character.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.isdigit` of one character: not the fractions and numerals that are merely numeric.
fn is_digit(c: char) -> bool {
    let numeral = matches!(c, '¼'..='¾' | '\u{2150}'..='\u{218b}' | '\u{3007}'..='\u{3029}');
    c.is_numeric() && !numeral
}

fn swap_case(c: char) -> String {
    if c.is_uppercase() {
        c.to_lowercase().collect()
    } else {
        c.to_uppercase().collect()
    }
}

/// Every letter after something else is a capital.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        let cased = c.is_lowercase() || c.is_uppercase();
        match in_word {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        in_word = cased;
    }
    out
}

fn strip(text: &str, args: &[Value], start: bool, end: bool) -> Result<Value, Error> {
    let (chars,): (Option<&Value>,) = from_args(args)?;
    let chars = chars.and_then(|chars| chars.as_str());
    let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(cut) } else { text };
    let text = if end { text.trim_end_matches(cut) } else { text };
    Ok(Value::from(text))
}

/// A list of texts, paid for in fuel by its length.
fn list(state: &State, parts: Vec<&str>) -> Result<Value, Error> {
    state.consume_fuel(parts.len() as u64)?;
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<Value>>()))
}

fn split(state: &State, text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, count, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?).filter(|value| !value.is_none());
    let count = count.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let count = usize::try_from(count).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = match &separator {
        None if from_end => words_from_end(text, count),
        None => words(text, count),
        Some(separator) => match separator.as_str() {
            None => return Err(invalid("split: the separator is no text")),
            Some("") => return Err(invalid("split: empty separator")),
            Some(separator) if from_end => text.rsplitn(count + 1, separator).collect(),
            Some(separator) => text.splitn(count + 1, separator).collect(),
        },
    };
    if from_end {
        parts.reverse();
    }
    list(state, parts)
}

fn words(text: &str, count: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == count {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

/// Last word first.
fn words_from_end(text: &str, count: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == count {
            parts.push(rest);
            break;
        }
        let space = rest.char_indices().rev().find(|(_, c)| is_space(*c));
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts
}

/// `str.splitlines`, with all the line ends Python knows.
pub fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_end = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let end = rest.find(is_end).unwrap_or(rest.len());
        let after = &rest[end..];
        let end_length = match after.strip_prefix("\r\n") {
            Some(_) => 2,
            None => after.chars().next().map_or(0, char::len_utf8),
        };
        parts.push(&rest[..if keep_ends { end + end_length } else { end }]);
        rest = &after[end_length..];
    }
    parts
}

fn partition(text: &str, separator: &str, from_end: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("partition: empty separator"));
    }
    let found = if from_end { text.rfind(separator) } else { text.find(separator) };
    let parts = match found {
        Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let width = width.min(WIDTH_MAX);
    let missing = width.saturating_sub(text.chars().count());
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd one left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = fill.unwrap_or(" ");
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

/// The values' texts with `separator` between them, paid for in fuel as they are made.
pub fn join(state: &State, separator: &str, values: &Value) -> Result<String, Error> {
    if values.is_undefined() {
        return Ok(String::new());
    }
    let mut out = String::new();
    for (index, value) in values.try_iter()?.enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        let text = python_str(state, &value)?;
        state.consume_fuel(((separator.len() + text.len()) / 64) as u64)?;
        out.push_str(&text);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        assert_eq!(lines("a\r\nb\rc\u{2028}d\n", false), ["a", "b", "c", "d"]);
        assert_eq!(lines("a\r\n\nb", true), ["a\r\n", "\n", "b"]);
        assert!(lines("", false).is_empty());
    }

    #[test]
    fn words_stop_at_the_count() {
        assert_eq!(words("  a b  c ", 1), ["a", "b  c "]);
        assert_eq!(words("  a b  c ", 9), ["a", "b", "c"]);
        assert_eq!(words_from_end("  a b  c ", 1), ["c", "  a b"]);
        assert_eq!(words("x", 0), ["x"]);
    }
}
