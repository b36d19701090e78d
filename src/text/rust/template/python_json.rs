//! `json.dumps` of Python over template values: key order kept, floats as repr writes them.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::python_repr::{float_repr, is_list, too_deep};

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
}

/// Costs fuel by the number of values.
pub fn dumps(state: &State, value: &Value, style: &Style) -> Result<String, Error> {
    let mut writer = Writer { state, style, out: String::new() };
    writer.write(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    style: &'a Style,
    out: String,
}

impl Writer<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.write_map(value, depth)?,
            _ if is_list(value) => {
                let mut empty = true;
                self.out.push('[');
                for item in value.try_iter()? {
                    self.begin_item(&mut empty, depth);
                    self.write(&item, depth + 1)?;
                }
                self.end_items(empty, depth);
                self.out.push(']');
            }
            _ => self.out.push_str(&scalar(value)?),
        }
        Ok(())
    }

    fn write_map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
        let mut pairs: Vec<(Value, Value)> = pairs.into_iter().flatten().collect();
        if self.style.sort_keys {
            // Python compares code points, which is the byte order of UTF-8.
            pairs.sort_by(|(a, _), (b, _)| match (a.as_str(), b.as_str()) {
                (Some(a), Some(b)) => a.cmp(b),
                _ => a.cmp(b),
            });
        }
        let mut empty = true;
        self.out.push('{');
        for (key, item) in &pairs {
            self.begin_item(&mut empty, depth);
            match key.as_str() {
                Some(text) => self.write_string(text),
                None => self.write_string(&scalar(key)?),
            }
            self.out.push_str(&self.style.key_separator);
            self.write(item, depth + 1)?;
        }
        self.end_items(empty, depth);
        self.out.push('}');
        Ok(())
    }

    fn begin_item(&mut self, empty: &mut bool, depth: usize) {
        if !std::mem::replace(empty, false) {
            self.out.push_str(&self.style.item_separator);
        }
        self.newline(depth + 1);
    }

    fn end_items(&mut self, empty: bool, depth: usize) {
        if !empty {
            self.newline(depth);
        }
    }

    fn newline(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn write_string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 => self.out.push_str(&format!("\\u{:04x}", c as u32)),
                c if c.is_ascii() || !self.style.ensure_ascii => self.out.push(c),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        self.out.push('"');
    }
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
