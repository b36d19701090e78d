//! What has to be rewritten in a template before minijinja reads it as Jinja would.
//!
//! - Line ends: Jinja makes every one of them `\n`.
//! - `{% generation %}`: transformers marks the assistant's text with it and prints what is inside.
//!   minijinja knows no tags but its own, so the pair becomes `{% with %}` .. `{% endwith %}`: a
//!   block tag too (so that whitespace around it is treated alike) and a scope of its own, as the
//!   original is.
//! - `{% raw %}`: trim_blocks spares the line end behind it, which `+` says here.

pub fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    if !source.contains("generation") && !source.contains("raw") {
        return source;
    }
    rewrite_tags(&source)
}

fn rewrite_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = if rest.starts_with("{#") {
            rest.find("#}").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("{{") {
            tag_length(rest, "}}")
        } else if rest.starts_with("{%") {
            tag_length(rest, "%}")
        } else {
            1
        };
        let (tag, after) = rest.split_at(length);
        rest = after;
        match block_name(tag) {
            Some("generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            Some("raw") => {
                let end = raw_end(rest);
                let marked = tag.ends_with("-%}") || tag.ends_with("+%}");
                out.push_str(if marked { tag } else { &tag[..tag.len() - 2] });
                out.push_str(if marked { "" } else { "+%}" });
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    out
}

/// Bytes up to and with `end`, not counting one inside a string.
fn tag_length(tag: &str, end: &str) -> usize {
    let bytes = tag.as_bytes();
    let mut index = 2;
    let mut quote = None;
    while index < bytes.len() {
        match (quote, bytes[index]) {
            (Some(_), b'\\') => index += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, _) if bytes[index..].starts_with(end.as_bytes()) => return index + 2,
            _ => {}
        }
        index += 1;
    }
    tag.len()
}

/// The one word of a block tag without arguments.
fn block_name(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let inside = inside.strip_suffix(['-', '+']).unwrap_or(inside);
    Some(inside.trim())
}

/// Where the body of a raw block ends: at its `{% endraw %}`.
fn raw_end(body: &str) -> usize {
    let mut from = 0;
    while let Some(start) = body[from..].find("{%") {
        let start = from + start;
        let end = body[start..].find("%}").map_or(body.len(), |end| start + end + 2);
        if block_name(&body[start..end]) == Some("endraw") {
            return start;
        }
        from = start + 2;
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_tags_are_rewritten() {
        for (source, expected) in [
            ("a{% generation %}b{% endgeneration %}", "a{% with %}b{% endwith %}"),
            ("{%- generation -%}{%-endgeneration+%}", "{%- with -%}{%-endwith+%}"),
            ("{{ add_generation_prompt }}", "{{ add_generation_prompt }}"),
            ("{# {% generation %} #}", "{# {% generation %} #}"),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw +%}{% generation %}{% endraw %}{% with %}",
            ),
            ("{% if generation %}{", "{% if generation %}{"),
            ("generation {% generation", "generation {% generation"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("{% raw -%}x{% endraw %}", "{% raw -%}x{% endraw %}"),
        ] {
            assert_eq!(prepare(source), expected);
        }
    }
}
