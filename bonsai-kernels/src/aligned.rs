//! Cache-line aligned, zeroed buffers from an [`Allocator`], and byte ranges shared with whoever owns them.
#![expect(unsafe_code, reason = "owns raw allocations")]

use std::alloc::Layout;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::{KernelError, Result};

/// Alignment of every [`AlignedBuf`], in bytes.
pub const ALIGN: usize = 64;

/// Where large buffers come from. A host may bring its own.
///
/// # Safety
/// `allocate_zeroed` returns memory of at least `layout.size()` bytes, all zero, aligned to `layout.align()`, that
/// nobody else uses until it is given back to `deallocate` of the same allocator.
pub unsafe trait Allocator: Send + Sync {
    /// Zeroed memory of this layout (its size is never 0), or `None` when there is none.
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>>;
    /// Takes memory back.
    ///
    /// # Safety
    /// `ptr` came from `allocate_zeroed` of this allocator with this `layout`, and is given back once.
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout);
}

/// Rust's global allocator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemAllocator;

/// What the global allocator aligns to without ado. For more it would write the zeros itself, and so touch pages that
/// a fresh mapping has at zero anyway.
const PLAIN_ALIGN: usize = 16;

impl SystemAllocator {
    /// The layout that is really asked for, and the alignment of what is handed out. The distance between the two
    /// pointers, at least `PLAIN_ALIGN` bytes, stands in the bytes right before the handed-out one.
    fn padded(layout: Layout) -> Option<(Layout, usize)> {
        let align = layout.align().max(PLAIN_ALIGN);
        let size = layout.size().checked_add(align)?;
        Some((Layout::from_size_align(size, PLAIN_ALIGN).ok()?, align))
    }
}

// SAFETY: a part of what the global allocator returns, all zero, aligned as asked and as long; `padded` made room.
unsafe impl Allocator for SystemAllocator {
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        assert!(layout.size() > 0);
        let (padded, align) = Self::padded(layout)?;
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(padded) })?;
        let distance = align - base.addr().get() % align;
        // SAFETY: `PLAIN_ALIGN <= distance <= align`, as both addresses are multiples of `PLAIN_ALIGN`: the pointer and
        // the word before it lie inside `padded`, and the word is aligned.
        unsafe {
            let ptr = base.add(distance);
            ptr.cast::<usize>().sub(1).write(distance);
            Some(ptr)
        }
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let (padded, _) = Self::padded(layout).expect("this layout was allocated");
        // SAFETY: `ptr` came from `allocate_zeroed`, which wrote the distance before it and got `padded` from the
        // global allocator (contract of this method).
        unsafe {
            let distance = ptr.cast::<usize>().sub(1).read();
            std::alloc::dealloc(ptr.sub(distance).as_ptr(), padded);
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Plain numbers: every bit pattern is a value, and zero bytes are the value 0.
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {}
macro_rules! elements { ($($t:ty),*) => { $(impl sealed::Sealed for $t {} impl Element for $t {})* } }
elements!(u8, i8, u16, i16, u32, i32, u64, f32);

/// A zeroed, 64-byte aligned buffer that gives its memory back to the allocator that it came from.
pub struct AlignedBuf<T: Element> {
    ptr: NonNull<T>,
    len: usize,
    allocator: Arc<dyn Allocator>,
}

// SAFETY: the buffer owns its memory alone and `Element`s are plain numbers.
unsafe impl<T: Element> Send for AlignedBuf<T> {}
// SAFETY: shared access only reads plain numbers.
unsafe impl<T: Element> Sync for AlignedBuf<T> {}

impl<T: Element> AlignedBuf<T> {
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_mul(size_of::<T>())?, ALIGN).ok()
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] when the allocator refuses.
    pub fn zeroed(allocator: &Arc<dyn Allocator>, len: usize) -> Result<Self> {
        let refused = || KernelError::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) };
        let layout = Self::layout(len).ok_or_else(refused)?;
        let ptr = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            allocator.allocate_zeroed(layout).ok_or_else(refused)?.cast()
        };
        Ok(Self { ptr, len, allocator: Arc::clone(allocator) })
    }
}

impl<T: Element> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len).filter(|l| l.size() > 0) {
            // SAFETY: `zeroed` took this memory from this allocator with this same layout; it is given back once.
            unsafe { self.allocator.deallocate(self.ptr.cast(), layout) }
        }
    }
}

impl<T: Element> Deref for AlignedBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `ptr` holds `len` zeroed, later written elements (dangling only when `len` is 0).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Element> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Element> fmt::Debug for AlignedBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} x {})", self.len, std::any::type_name::<T>())
    }
}

/// A range of bytes that somebody else owns: a mapped file, a vector, memory of a host.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let len = (*owner).as_ref().len();
        Self { owner, range: 0..len }
    }

    /// Bytes of a vector.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self::new(Arc::new(bytes))
    }

    /// A part of this range, sharing the same owner; `None` when it does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let (start, end) =
            (self.range.start.checked_add(range.start)?, self.range.start.checked_add(range.end)?);
        (start <= end && end <= self.range.end)
            .then(|| Self { owner: Arc::clone(&self.owner), range: start..end })
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether the range is empty.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zeroed() {
        let allocator: Arc<dyn Allocator> = Arc::new(SystemAllocator);
        for len in [0, 1, 63, 1000] {
            let buf = AlignedBuf::<f32>::zeroed(&allocator, len).unwrap();
            assert_eq!(buf.len(), len);
            assert!(buf.iter().all(|&v| v == 0.0));
            assert!(len == 0 || buf.as_ptr().addr().is_multiple_of(ALIGN));
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let allocator: Arc<dyn Allocator> = Arc::new(SystemAllocator);
        let refused = AlignedBuf::<f32>::zeroed(&allocator, usize::MAX / 2).unwrap_err();
        assert!(matches!(refused, KernelError::OutOfMemory { .. }));
    }

    #[test]
    fn slices_stay_inside() {
        let bytes = SharedBytes::from_vec((0..10).collect());
        let part = bytes.slice(2..6).unwrap();
        assert_eq!(part.as_slice(), [2, 3, 4, 5]);
        assert_eq!(part.slice(1..3).unwrap().as_slice(), [3, 4]);
        assert!(part.slice(0..5).is_none());
        assert!(part.slice(usize::MAX..usize::MAX).is_none());
    }
}
