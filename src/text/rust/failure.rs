//! The one error type of the crate: a status code of the C ABI with a message.

use std::fmt::Display;

/// Values are those of `absl::StatusCode`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Internal = 13,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn invalid(message: impl Display) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub fn exhausted(message: impl Display) -> Self {
        Self::new(Code::ResourceExhausted, message)
    }

    pub fn new(code: Code, message: impl Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

/// Reads a file of at most `bytes_max` bytes; NOT_FOUND when there is none.
pub fn read_file(path: &std::path::Path, bytes_max: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let name = path.display();
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(Code::NotFound, format!("no file {name}")),
        _ => Failure::invalid(format!("cannot open {name}: {error}")),
    })?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::invalid(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::exhausted(format!("{name} is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}
