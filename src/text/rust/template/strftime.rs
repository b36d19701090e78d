//! `strftime_now(format)`: the C library's strftime on local time, as Python has it.

use minijinja::{Error, ErrorKind, State};

/// A template variable that replaces the clock (seconds since the epoch).
pub const NOW_VARIABLE: &str = "__now";

const TEXT_BYTES_MAX: usize = 4096;

pub fn strftime_now(state: &mut State, format: &str) -> Result<String, Error> {
    let now = match state.lookup(NOW_VARIABLE).and_then(|now| now.as_i64()) {
        Some(now) => now,
        None => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() as i64),
    };
    local(now, format)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "strftime_now: bad format"))
}

fn local(now: i64, format: &str) -> Option<String> {
    if format.is_empty() {
        return Some(String::new());
    }
    // An empty result and a full buffer look alike to strftime, hence the mark.
    let format = std::ffi::CString::new(format!("{format}.")).ok()?;
    let mut text = vec![0u8; TEXT_BYTES_MAX];
    // SAFETY: `parts` is filled by localtime_r before use; strftime writes at most text.len() bytes
    // and both strings end in NUL.
    let length = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&(now as libc::time_t), &mut parts).is_null() {
            return None;
        }
        libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &parts)
    };
    text.truncate(length.checked_sub(1)?);
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_what_templates_ask_for() {
        let text = local(1_000_000_000, "%Y %b").unwrap();
        assert_eq!(text, "2001 Sep");
        assert_eq!(local(0, ""), Some(String::new()));
        assert_eq!(local(0, "a\0b"), None);
        assert_eq!(local(0, &"%c".repeat(5000)), None);
    }
}
