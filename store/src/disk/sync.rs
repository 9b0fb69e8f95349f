//! Makes sled sync for real.
//!
//! On Linux sled 0.34 ends a flush with `sync_file_range`, which does not survive a power cut. Where the kernel does not
//! have that call, sled falls back to `fsync`. So this program has a `sync_file_range` of its own that the kernel does not
//! have: every write that sled calls stable is then a true `fsync`.

use std::os::raw::{c_int, c_uint};

/// Shadows libc's function for everything linked into this program.
///
/// # Safety
/// Touches nothing but `errno`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(_fd: c_int, _offset: i64, _length: i64, _flags: c_uint) -> c_int {
    // SAFETY: errno's place is valid for the calling thread.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// Whether a call of the name ends up here. Also what makes the linker keep the symbol.
pub(crate) fn installed() -> bool {
    // SAFETY: a descriptor that cannot exist; neither implementation writes anything.
    let answer = unsafe { libc::sync_file_range(-1, 0, 0, 0) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    // A direct reference keeps this object file in the link, whatever the linker thinks of the call above.
    let own: unsafe extern "C" fn(c_int, i64, i64, c_uint) -> c_int = sync_file_range;
    std::hint::black_box(own);
    answer == -1 && errno == Some(libc::ENOSYS)
}
