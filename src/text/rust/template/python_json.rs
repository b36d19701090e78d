//! `json.dumps` of Python over template values: key order kept, floats as repr writes them.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::python_repr::{float_repr, too_deep};

const DEPTH_MAX: usize = 200;
const INDENT_MAX: usize = 64;

pub struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Style {
    /// The arguments of json.dumps; `indent` is a number or a text, `separators` a pair of texts.
    pub fn new(
        ensure_ascii: bool,
        indent: Option<Value>,
        separators: Option<Value>,
        sort_keys: bool,
    ) -> Result<Self, Error> {
        let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, what.to_string());
        let indent = match indent {
            None => None,
            Some(indent) => Some(match indent.as_str() {
                Some(text) => text.to_string(),
                None => {
                    let width = i64::try_from(indent.clone())
                        .or_else(|_| bool::try_from(indent).map(i64::from))
                        .map_err(|_| wrong("tojson: indent is no number and no text"))?;
                    " ".repeat(usize::try_from(width).unwrap_or(0).min(INDENT_MAX))
                }
            }),
        };
        let (item_separator, key_separator) = match separators {
            Some(separators) => {
                let texts: Vec<Value> = separators.try_iter()?.take(3).collect();
                match &texts[..] {
                    [item, key] => match (item.as_str(), key.as_str()) {
                        (Some(item), Some(key)) => (item.to_string(), key.to_string()),
                        _ => return Err(wrong("tojson: separators are not texts")),
                    },
                    _ => return Err(wrong("tojson: separators are not a pair")),
                }
            }
            None if indent.is_some() => (",".into(), ": ".into()),
            None => (", ".into(), ": ".into()),
        };
        Ok(Self { ensure_ascii, indent, item_separator, key_separator, sort_keys })
    }

    fn newline(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }
}

pub fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let mut out = String::new();
    write(value, style, 0, &mut out)?;
    Ok(out)
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Map => write_map(value, style, depth, out)?,
        ValueKind::Seq => {
            let mut empty = true;
            out.push('[');
            for item in value.try_iter()? {
                if !empty {
                    out.push_str(&style.item_separator);
                }
                empty = false;
                style.newline(depth + 1, out);
                write(&item, style, depth + 1, out)?;
            }
            if !empty {
                style.newline(depth, out);
            }
            out.push(']');
        }
        _ => out.push_str(&scalar(value)?),
    }
    Ok(())
}

fn write_map(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
    let mut pairs: Vec<(Value, Value)> = pairs.into_iter().flatten().collect();
    if style.sort_keys {
        // Python compares code points, which is the byte order of UTF-8.
        pairs.sort_by(|(a, _), (b, _)| match (a.as_str(), b.as_str()) {
            (Some(a), Some(b)) => a.cmp(b),
            _ => a.cmp(b),
        });
    }
    out.push('{');
    for (index, (key, item)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        style.newline(depth + 1, out);
        match key.as_str() {
            Some(text) => write_string(text, style, out),
            None => write_string(&scalar(key)?, style, out),
        }
        out.push_str(&style.key_separator);
        write(item, style, depth + 1, out)?;
    }
    if !pairs.is_empty() {
        style.newline(depth, out);
    }
    out.push('}');
    Ok(())
}

fn scalar(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::Number => match f64::try_from(value.clone())? {
            number if number.is_nan() => "NaN".into(),
            number if number == f64::INFINITY => "Infinity".into(),
            number if number == f64::NEG_INFINITY => "-Infinity".into(),
            number => float_repr(number),
        },
        kind => {
            let text = format!("tojson: a value of kind {kind} is not JSON serializable");
            return Err(Error::new(ErrorKind::InvalidOperation, text));
        }
    })
}

fn write_string(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            // json escapes DEL only together with all that is not ASCII, and leaves it be itself.
            c if c.is_ascii() || !style.ensure_ascii => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}
