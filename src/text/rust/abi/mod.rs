//! The C side: plain structs, and the guard that every entry runs in. `c_api.h` is the contract.

mod grammar;
mod template;
mod tokenizer;

use crate::failure::{Failure, Result};
use crate::panic_guard;

/// `fathom_bytes`: borrowed for the length of a call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bytes {
    data: *const u8,
    size: usize,
}

/// `fathom_buffer`: owned by this library until `fathom_buffer_free`.
#[repr(C)]
pub struct Buffer {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

/// `fathom_ids`: owned by this library until `fathom_ids_free`.
#[repr(C)]
pub struct Ids {
    data: *mut i32,
    size: usize,
    capacity: usize,
}

impl Bytes {
    /// # Safety
    /// `data` points at `size` readable bytes, or `size` is zero.
    unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.size == 0 || self.data.is_null() {
            return &[];
        }
        std::slice::from_raw_parts(self.data, self.size)
    }

    /// # Safety
    /// As `as_slice`.
    unsafe fn as_text<'a>(self, what: &str) -> Result<&'a str> {
        std::str::from_utf8(self.as_slice()).map_err(|error| {
            Failure::invalid(format!("{what} is not UTF-8 at byte {}", error.valid_up_to()))
        })
    }
}

impl Buffer {
    const EMPTY: Buffer = Buffer { data: std::ptr::null_mut(), size: 0, capacity: 0 };

    fn own(bytes: Vec<u8>) -> Buffer {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        Buffer { data: bytes.as_mut_ptr(), size: bytes.len(), capacity: bytes.capacity() }
    }
}

impl Ids {
    fn own(ids: Vec<i32>) -> Ids {
        let mut ids = std::mem::ManuallyDrop::new(ids);
        Ids { data: ids.as_mut_ptr(), size: ids.len(), capacity: ids.capacity() }
    }
}

/// # Safety
/// `ids` points at `count` readable ids, or `count` is zero.
unsafe fn id_slice<'a>(ids: *const i32, count: usize) -> &'a [i32] {
    if count == 0 || ids.is_null() {
        return &[];
    }
    std::slice::from_raw_parts(ids, count)
}

/// # Safety
/// `buffer` came from this library and is freed once.
#[no_mangle]
pub unsafe extern "C" fn fathom_buffer_free(buffer: Buffer) {
    if !buffer.data.is_null() {
        drop(Vec::from_raw_parts(buffer.data, buffer.size, buffer.capacity));
    }
}

/// # Safety
/// `ids` came from this library and is freed once.
#[no_mangle]
pub unsafe extern "C" fn fathom_ids_free(ids: Ids) {
    if !ids.data.is_null() {
        drop(Vec::from_raw_parts(ids.data, ids.size, ids.capacity));
    }
}

/// Runs `call`, turning panics and failures into a code and a message in `error` (when not null).
///
/// # Safety
/// `error` is null or points at a writable `Buffer` that owns nothing.
unsafe fn guard(error: *mut Buffer, call: impl FnOnce() -> Result<()>) -> i32 {
    if !error.is_null() {
        error.write(Buffer::EMPTY);
    }
    let Err(failure) = panic_guard::run(call) else { return 0 };
    if !error.is_null() {
        error.write(Buffer::own(failure.message.into_bytes()));
    }
    failure.code as i32
}

/// Drops a handle; a destructor that panics leaks instead of crossing the border.
///
/// # Safety
/// `handle` is null or came from `Box::into_raw` and is freed once.
unsafe fn free_handle<T>(handle: *mut T) {
    if !handle.is_null() {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(handle));
            Ok(())
        });
    }
}
