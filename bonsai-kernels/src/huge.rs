//! Memory for the largest buffers in huge pages, where the system has them: they are cleared several times faster than
//! small ones, which cost a fault each, and need fewer translations of addresses.
#![expect(unsafe_code, reason = "owns a mapping through a pointer into it")]

use std::ptr::NonNull;

use memmap2::{Advice, MmapMut};

/// Buffers of fewer bytes stay with the global allocator, which hands out again what was given back to it.
pub(crate) const LEAST_BYTES: usize = 32 << 20;
/// Of one page, where this system uses such.
const PAGE: usize = 2 << 20;

/// So many zero bytes, `LEAST_BYTES` or more, which begin with a page. `None` when there are none.
pub(crate) fn allocate(size: usize) -> Option<NonNull<u8>> {
    let mut map = MmapMut::map_anon(size.checked_add(PAGE)?).ok()?;
    // small pages do as well
    let _ = map.advise(Advice::HugePage);
    let first = map.as_mut_ptr();
    let distance = PAGE - first.addr() % PAGE;
    let handle = Box::into_raw(Box::new(map));
    // SAFETY: `distance` is at least a small page, since mappings begin with one, and at most `PAGE`: the handle before the
    // pointer and `size` bytes behind it lie inside the mapping, and `PAGE` aligns both.
    unsafe {
        let ptr = first.add(distance);
        ptr.cast::<*mut MmapMut>().sub(1).write(handle);
        NonNull::new(ptr)
    }
}

/// Gives memory back.
///
/// # Safety
/// `ptr` came from [`allocate`], and is given back once.
pub(crate) unsafe fn deallocate(ptr: NonNull<u8>) {
    // SAFETY: `allocate` wrote the handle of a box there, which nobody else has.
    drop(unsafe { Box::from_raw(ptr.cast::<*mut MmapMut>().sub(1).read()) });
}
