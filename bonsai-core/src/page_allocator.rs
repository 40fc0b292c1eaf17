//! Large buffers as mappings of their own: their pages are zero without being written, come when they are touched and
//! leave when the buffer is dropped. A heap would keep tens of megabytes of freed ones.
#![expect(unsafe_code, reason = "implements an allocator")]

use std::alloc::Layout;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use bonsai_kernels::{Allocator, SystemAllocator};
use memmap2::MmapMut;

/// Smaller buffers stay with the heap, where the next one finds its pages in place.
pub(crate) const MAPPED_BYTES: usize = 4 << 20;
/// Mappings begin at whole pages, the smallest of which are this large.
const PAGE: usize = 4096;

/// The default allocator of a pipeline.
#[derive(Debug, Default)]
pub struct PageAllocator {
    /// By address.
    mappings: Mutex<HashMap<usize, MmapMut>>,
}

fn is_mapped(layout: Layout) -> bool {
    layout.size() >= MAPPED_BYTES && layout.align() <= PAGE
}

// SAFETY: an anonymous mapping is zeroed, as long as asked, aligned to a page, and nobody else's until it is dropped,
// which happens in `deallocate`; the rest passes through to an allocator that keeps the contract.
unsafe impl Allocator for PageAllocator {
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        if !is_mapped(layout) {
            return SystemAllocator.allocate_zeroed(layout);
        }
        let mut mapping = MmapMut::map_anon(layout.size()).ok()?;
        let ptr = NonNull::new(mapping.as_mut_ptr())?;
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner).insert(ptr.addr().get(), mapping);
        Some(ptr)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if is_mapped(layout) {
            let mapping =
                self.mappings.lock().unwrap_or_else(PoisonError::into_inner).remove(&ptr.addr().get());
            drop(mapping);
        } else {
            // SAFETY: `allocate_zeroed` passed this layout on too (contract of this method).
            unsafe { SystemAllocator.deallocate(ptr, layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bonsai_kernels::AlignedBuf;

    use super::*;

    #[test]
    fn mappings_come_zeroed_and_go() {
        let pages = Arc::new(PageAllocator::default());
        let allocator: Arc<dyn Allocator> = pages.clone();
        for len in [1, MAPPED_BYTES - 1, MAPPED_BYTES, MAPPED_BYTES + 1] {
            let mut buffer = AlignedBuf::<u8>::zeroed(&allocator, len).unwrap();
            assert!(buffer.iter().all(|&b| b == 0));
            buffer.fill(7);
            assert_eq!(pages.mappings.lock().unwrap().len(), usize::from(len >= MAPPED_BYTES));
        }
        assert!(pages.mappings.lock().unwrap().is_empty());
        assert!(AlignedBuf::<u8>::zeroed(&allocator, usize::MAX / 4).is_err());
    }
}
